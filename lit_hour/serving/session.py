"""A trained run that is asked about videos: the video is remembered once, then each question is answered from memory."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError, RunError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.splice import prompts_of
from lit_hour.processor import Processor
from lit_hour.run import RunFolder, read_checkpoint
from lit_hour.text.tokenizer import end_of_turn_id, load_tokenizer
from lit_hour.types import Answer, Example, Repository
from lit_hour.video.decode import load_video

UNFINISHED_CHARACTER = "\ufffd"  # what a tokenizer shows for a character whose last bytes are still to come
LONGEST_REASON_CHARACTERS = 400  # torch names every weight, each on a line


@dataclass(frozen=True)
class Memory:
    """A video that was read once: its repository, and what it took, in seconds by part (decode, encode)."""

    source: str
    duration_seconds: float
    num_frames: int
    repository: Repository
    seconds: dict[str, float]


class Session:
    """A model that is ready to read videos and to answer."""

    def __init__(self, config: Config, model: HourLLaVA, processor: Processor) -> None:
        self.config, self.model, self.processor = config, model.eval(), processor
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, run: Path, checkpoint: str | None = None, device: str | None = None, settings: Sequence[str] = ()) -> Session:
        """Load a run that `train.py` has made.

        Args:
            run: the run folder.
            checkpoint: "best", "last" or another name in its checkpoints; the best, or else the last, if not given.
            device: where to compute; a GPU when there is one, if not given.
            settings: `a.b=c` words that win over those of the run.

        Raises:
            RunError: the run, the checkpoint or a part of the model is missing.
            ConfigError: a setting does not exist or is out of range.
        """
        folder = RunFolder(run)
        file = folder.checkpoint(checkpoint)
        config = load_config(file.with_suffix(".yaml"), settings)
        processor = Processor(load_tokenizer(folder.tokenizer), config.text)
        model = HourLLaVA(config, len(processor.tokenizer))
        _load_weights(model, file)
        return cls(config, model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), processor)

    @torch.inference_mode()
    def remember(self, video: str | Path) -> Memory:
        """Read a video file and keep all its tokens.

        Raises:
            VideoError: the file cannot be read.
        """
        started = time.perf_counter()
        frames, duration_seconds = load_video(video, self.config.video)
        decoded = time.perf_counter()
        repository = self.model.remember([frames.to(self.device)])[0]
        seconds = {"decode": decoded - started, "encode": time.perf_counter() - decoded}
        return Memory(str(video), duration_seconds, len(frames), repository, seconds)

    @torch.inference_mode()
    def ask(self, memory: Memory, question: str) -> Iterator[str | Answer]:
        """Answer a question about a remembered video: pieces of text as they come, and the whole answer last.

        Raises:
            QuestionError: the question is empty, or too long.
        """
        texts = self.processor.texts([self.processor.ask(question)], memory.duration_seconds, memory.num_frames)
        batch = self.processor.batch([Example(memory.source, None, texts)]).to(self.device)
        started = time.perf_counter()
        ids: list[int] = []
        text = ""
        prompt = prompts_of(self.model.read(batch, [memory.repository]))
        if prompt.labels.shape[1] >= self.config.text.max_tokens:
            raise QuestionError(
                f"the question does not fit beside the video's tokens in text.max_tokens={self.config.text.max_tokens}:"
                " ask a shorter one"
            )
        tokenizer = self.processor.tokenizer
        for token in self.model.language.generate(prompt, self.config.answer.max_new_tokens, end_of_turn_id(tokenizer)):
            if not ids:
                first_token_seconds = time.perf_counter() - started
            ids.append(int(token))
            longer = str(tokenizer.decode(ids, skip_special_tokens=True))
            if not longer.endswith(UNFINISHED_CHARACTER):
                yield longer.removeprefix(text)
                text = longer
        if longer != text:  # cut off within a character
            yield longer.removeprefix(text)
        seconds = {
            **memory.seconds,
            "first token": first_token_seconds,
            "other tokens": time.perf_counter() - started - first_token_seconds,
        }
        yield Answer(longer, memory.num_frames, len(memory.repository.tokens), seconds)


def _load_weights(model: HourLLaVA, file: Path) -> None:
    """The model's part of a Lightning checkpoint.

    Raises:
        RunError: the file is damaged, or weights are missing, left over or of another shape.
    """
    state = read_checkpoint(file)["state_dict"]
    weights = {name.removeprefix("model."): weight for name, weight in state.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = textwrap.shorten(str(error), LONGEST_REASON_CHARACTERS)
        raise RunError(f"{file} does not fit the settings beside it: {reasons}") from error
