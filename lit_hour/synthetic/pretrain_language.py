"""Pretrain a small language model on conversations about made-up stories.

Entry point: `pretrain_language`. No video is needed: a frame is the sum of a vector for each word
that describes it. These vectors are trained too, and dropped: the run learns with the projector and
MemAug to bring the tokens of real frames to where the language model reads them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

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
from lit_hour.text.tokenizer import Tokenizer, save_tokenizer
from lit_hour.types import IGNORE_INDEX

REPORT_FILE = "figures.json"  # beside the weights
WORD_LEARNING_RATE_RATIO = 3.0  # of the vectors of words, relative to the language model
MAX_TIME = 1.5  # of the vector for the time of the last frame; the first one has its opposite
NOISE = 0.3  # standard deviation in a token, relative to a word's vector


class FrameWords(nn.Module):
    """A trained vector for each word that describes a frame, and the newline token.

    It stands for the vision encoder, the projector and MemAug, whose output is normalized too.
    """

    def __init__(self, dim: int, tokens_per_frame: int) -> None:
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
        self.vectors = nn.ModuleList(
            nn.Embedding(len(known), dim) for known in FRAME_WORDS.values()
        )
        self.time = nn.Parameter(torch.randn(dim))  # (dim,)
        self.newline = nn.Parameter(torch.randn(dim))  # (dim,)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the visual tokens of a video's frames, which are evenly spaced.

        Args:
            frames: `(frames, labels)` int64.

        Returns:
            `(frames * tokens, dim)`: tokens with noise, and a newline token after each frame.
        """
        pairs = zip(self.vectors, frames.unbind(dim=1), strict=True)
        frame = torch.stack([vectors(labels) for vectors, labels in pairs]).sum(dim=0)
        times = MAX_TIME * torch.linspace(-1, 1, len(frames))  # (frames,)
        frame = frame + times[:, None] * self.time  # (frames, dim)
        tokens = frame[:, None].expand(-1, self.tokens_per_frame, -1)  # (frames, tokens, dim)
        newline = self.newline.expand(len(frames), 1, -1)  # (frames, 1, dim)
        tokens = torch.cat([tokens, newline], dim=1)  # (frames, tokens + 1, dim)
        tokens = tokens + NOISE * torch.randn_like(tokens)
        return F.layer_norm(tokens, tokens.shape[-1:]).flatten(0, 1)  # (frames * tokens, dim)


def pretrain_language(config: Config, out: Path) -> dict[str, float]:
    """Train a language model, and write it as a folder in the Hugging Face layout.

    Args:
        config: `model.llm`, `model.memaug`, `text`, `data.questions_per_sample` and
            `pretrain_language` are used.
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
    words = FrameWords(llm.dim, settings.tokens_per_frame)
    train_language(llm, words, DescribedVideos(config, tokenizer, first), config)
    llm.half().float()  # as it is stored
    unseen = DescribedVideos(config, tokenizer, first_unseen)
    accuracy = measure_accuracy(llm, words, unseen, settings.num_val_stories)
    with atomic_dir(out) as folder:
        write_language_model(llm, tokenizer, folder)
        write_report(folder / REPORT_FILE, out.name, settings, accuracy)
    return accuracy


def train_language(
    llm: LanguageModel, words: FrameWords, videos: DescribedVideos, config: Config
) -> None:
    """Train a language model in place, together with the vectors of the words."""
    settings = config.pretrain_language
    llm.pack_texts()

    def compute_loss() -> Tensor:
        batch = videos.draw(settings.batch_size)
        return llm.loss(build_inputs(llm, words, batch, config.text.max_tokens))

    rate = settings.learning_rate
    groups = [
        {"params": list(llm.parameters()), "lr": rate},
        {"params": list(words.parameters()), "lr": WORD_LEARNING_RATE_RATIO * rate},
    ]
    train(groups, settings, compute_loss)


def build_inputs(
    llm: LanguageModel, words: FrameWords, batch: DescribedBatch, max_tokens: int
) -> LLMInputs:
    """Put the described frames in the place of each text's video."""
    texts = embed_texts(batch.texts, llm.embed)
    sequences = [
        merge_visual_tokens(text, [words(frames)])
        for text, frames in zip(texts, batch.frames, strict=True)
    ]
    return pad_inputs(sequences, max_tokens, "right")


@torch.no_grad()
def measure_accuracy(
    llm: LanguageModel, words: FrameWords, videos: DescribedVideos, num_stories: int
) -> dict[str, float]:
    """Measure the share of exact answers, given those before in the conversation.

    Returns:
        By kind of question, 0 to 1: its format, for multiple choice with what is answered, and its
        task.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    batch_size = 16
    for _ in range(0, num_stories, batch_size):
        batch = videos.draw(batch_size)
        inputs = build_inputs(llm, words, batch, videos.config.text.max_tokens)
        predicted = llm.logits(inputs)[:, :-1].argmax(dim=-1)  # (texts, tokens - 1)
        targets = inputs.labels[:, 1:]  # (texts, tokens - 1)
        for text, questions in enumerate(batch.texts.questions):
            is_target = targets[text] != IGNORE_INDEX  # (tokens - 1,)
            is_hit = predicted[text] == targets[text]  # (tokens - 1,)
            starts = is_target & ~F.pad(is_target, (1, 0))[:-1]  # (tokens - 1,)
            answer_of = starts.cumsum(dim=0)  # (tokens - 1,), from 1
            for number, question in enumerate(questions, start=1):
                if not question.task:  # the rows of a table may have any order
                    continue
                is_exact = bool(is_hit[is_target & (answer_of == number)].all())
                kind: str = question.format
                if question.options:
                    kind = f"{kind}, {batch.mcq_format}"
                hits[kind].append(is_exact)
                hits[f"{kind}, {question.task}"].append(is_exact)
    return {name: sum(found) / len(found) for name, found in sorted(hits.items())}


def write_language_model(llm: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a language model in the Hugging Face layout: weights in float16, and the tokenizer."""
    llm.network.half().save_pretrained(folder)
    llm.network.float()
    save_tokenizer(tokenizer, folder)
