"""Pretrain a small language model on conversations about made-up stories.

Entry point: `pretrain_language`. No video is needed: a frame is the sum of a vector for each word
that describes it. These vectors are the embeddings of the words, turned by matrices that are
trained too, and dropped: the run learns with the projector and MemAug to bring the tokens of real
frames to where the language model reads them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from lit_hour.io.atomic import atomic_dir
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.multimodal_inputs import embed_texts, merge_visual_tokens, pad_inputs
from lit_hour.synthetic.described_videos import (
    FRAME_WORDS,
    DescribedBatch,
    DescribedVideos,
    train_tokenizer,
)
from lit_hour.synthetic.pretraining import first_story_seeds, train, write_report
from lit_hour.text.chat_template import McqFormat
from lit_hour.text.tokenizer import Tokenizer, save_tokenizer

REPORT_FILE = "figures.json"  # beside the weights
WORD_LEARNING_RATE_RATIO = 3.0  # of the frames' vectors, relative to the language model
WARMUP_RATIO = 0.04
MAX_TIME = 1.5  # of the vector for the time of the last frame; the first one has its opposite
NOISE = 0.3  # standard deviation in a token, relative to a word's vector
VAL_BATCH_SIZE = 32


class FrameWords(nn.Module):
    """Visual tokens of frames that are described in words.

    They stand for the output of MemAug, which is normalized too. A frame is the sum of the
    embeddings of its words, each turned by a matrix for what the word is about, and of a vector
    for the frame's time.
    """

    def __init__(self, dim: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.ids = [
            torch.tensor([tokenizer.encode(word, add_special_tokens=False)[0] for word in words])
            for words in FRAME_WORDS.values()
        ]  # (words,) for each label
        maps = [nn.Linear(dim, dim, bias=False) for _ in FRAME_WORDS]
        for linear in maps:
            nn.init.orthogonal_(linear.weight)
        self.maps = nn.ModuleList(maps)
        self.time = nn.Parameter(torch.randn(dim))  # (dim,)
        self.newline = nn.Parameter(torch.randn(dim))  # (dim,)

    def vectors(self, embed: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return a vector for each word of each label, `(words, dim)` with a variance of 1."""
        pairs = zip(self.maps, self.ids, strict=True)
        return [_normalize(one(_normalize(embed(ids)))) for one, ids in pairs]

    def forward(
        self, vectors: list[Tensor], frames: Tensor, tokens_per_frame: int, time_scale: float
    ) -> Tensor:
        """Return the visual tokens of a video's frames, which are evenly spaced.

        Args:
            vectors: of the words, as `vectors` returns them.
            frames: `(frames, labels)` int64.
            tokens_per_frame: without the newline token.
            time_scale: of the vector for a frame's time; 0 for none.

        Returns:
            `(frames * tokens, dim)`: tokens with noise, and a newline token after each frame.
        """
        pairs = zip(vectors, frames.unbind(dim=1), strict=True)
        frame = torch.stack([known[labels] for known, labels in pairs]).sum(dim=0)  # (frames, dim)
        times = time_scale * MAX_TIME * torch.linspace(-1, 1, len(frames))  # (frames,)
        frame = frame + times[:, None] * self.time  # (frames, dim)
        tokens = frame[:, None].expand(-1, tokens_per_frame, -1)  # (frames, tokens, dim)
        newline = self.newline.expand(len(frames), 1, -1)  # (frames, 1, dim)
        tokens = torch.cat([tokens, newline], dim=1)  # (frames, tokens + 1, dim)
        tokens = tokens + NOISE * torch.randn_like(tokens)
        return _normalize(tokens).flatten(0, 1)  # (frames * tokens, dim)


def _normalize(vectors: Tensor) -> Tensor:
    return F.layer_norm(vectors, vectors.shape[-1:])


def pretrain_language(config: Config, out: Path) -> dict[str, float]:
    """Train a language model, and write it as a folder in the Hugging Face layout.

    Args:
        config: `model.llm`, `model.memaug`, `text` and `pretrain_language` are used.
        out: folder of the weights, in float16, and of the tokenizer; for `model.llm.path`.

    Returns:
        Accuracy about unseen stories by format and task, 0 to 1.

    Raises:
        ConfigError: `out` exists already, or its parent folder does not.
    """
    if out.exists() or not out.parent.is_dir():
        raise ConfigError(
            f"Cannot create the folder {out}. Name a new folder in a folder that exists"
        )
    settings = config.pretrain_language
    torch.manual_seed(settings.seed)
    first, first_unseen = first_story_seeds(settings.seed)
    tokenizer = train_tokenizer(config, first)
    llm = LanguageModel(config.model.llm, len(tokenizer))
    words = FrameWords(llm.dim, tokenizer)
    train_language(llm, words, DescribedVideos(config, tokenizer, first), config)
    llm.half().float()  # rounded as in the file
    unseen = DescribedVideos(config, tokenizer, first_unseen)
    accuracy = measure_accuracy(llm, words, unseen, settings.num_val_stories)
    with atomic_dir(out) as folder:
        write_language_model(llm, tokenizer, folder)
        write_report(folder / REPORT_FILE, out.name, settings, accuracy)
    return accuracy


def train_language(
    llm: LanguageModel, words: FrameWords, videos: DescribedVideos, config: Config
) -> None:
    """Train a language model in place, together with the vectors of the frames.

    The first steps have short questions alone: they teach to look things up. In the steps after
    them the vector for the time of a frame is of random length, because MemAug may give none.
    """
    settings = config.pretrain_language
    llm.pack_texts()
    num_short_steps = round(settings.short_ratio * settings.num_steps)
    step = 0

    def compute_loss() -> Tensor:
        nonlocal step
        step += 1
        if step <= num_short_steps:
            batch, time_scale = videos.draw_short(settings.batch_size), 1.0
        else:
            batch, time_scale = videos.draw(settings.batch_size), float(torch.rand(()))
        return llm.loss(build_inputs(llm, words, batch, config.text.max_tokens, time_scale))

    rate = settings.learning_rate
    groups = [
        {"params": list(llm.parameters()), "lr": rate},
        {"params": list(words.parameters()), "lr": WORD_LEARNING_RATE_RATIO * rate},
    ]
    train(groups, settings, compute_loss, WARMUP_RATIO)


def build_inputs(
    llm: LanguageModel,
    words: FrameWords,
    batch: DescribedBatch,
    max_tokens: int,
    time_scale: float = 1.0,
) -> LLMInputs:
    """Put the described frames in the place of each text's video."""
    texts, vectors = embed_texts(batch.texts, llm.embed), words.vectors(llm.embed)
    sequences = [
        merge_visual_tokens(text, [words(vectors, frames, batch.tokens_per_frame, time_scale)])
        for text, frames in zip(texts, batch.frames, strict=True)
    ]
    return pad_inputs(sequences, max_tokens, "right")


@torch.no_grad()
def measure_accuracy(
    llm: LanguageModel, words: FrameWords, videos: DescribedVideos, num_stories: int
) -> dict[str, float]:
    """Measure the share of exact answers to one question about each story of the default run.

    Returns:
        By kind of question, 0 to 1: its format, for multiple choice with what is answered, and its
        task.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    for mcq_format in get_args(McqFormat):
        for start in range(0, num_stories, VAL_BATCH_SIZE):
            batch = videos.draw_default_run(min(VAL_BATCH_SIZE, num_stories - start), mcq_format)
            inputs = build_inputs(llm, words, batch, videos.config.text.max_tokens)
            predicted = llm.logits(inputs)[:, :-1].argmax(dim=-1)  # (texts, tokens - 1)
            targets = inputs.labels[:, 1:]  # (texts, tokens - 1)
            is_exact = ((predicted == targets) | ~inputs.is_target).all(dim=1)  # (texts,)
            for (question,), hit in zip(batch.texts.questions, is_exact.tolist(), strict=True):
                kind: str = f"multiple_choice, {mcq_format}" if question.options else "open_ended"
                hits[kind].append(hit)
                hits[f"{kind}, {question.task}"].append(hit)
    return {name: sum(found) / len(found) for name, found in sorted(hits.items())}


def write_language_model(llm: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a language model in the Hugging Face layout: weights in float16, and the tokenizer."""
    llm.network.half().save_pretrained(folder)
    llm.network.float()
    save_tokenizer(tokenizer, folder)
