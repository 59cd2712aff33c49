"""The `generation_kwargs` of a task -> how answers are generated: by the likeliest token. What asks for more is refused.

What lmms-eval shows and asks: the visuals of a simple task, or the messages of a chat task -> one prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lit_hour.errors import ConfigError, QuestionError
from lit_hour.types import IMAGE_TOKEN

SUPPORTED = ("max_new_tokens", "until")
SAMPLING_KEYS = (
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "num_beams",
)  # of no effect where the likeliest token is taken


@dataclass(frozen=True)
class GenerationKwargs:
    """How an answer is generated.

    Attributes:
        max_new_tokens: longest answer; the run's `generation.max_new_tokens` if the task does not say.
        until: the answer ends before the first of these.
        ignored: names that the task gives and lit_hour does not know.
    """

    max_new_tokens: int | None
    until: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any], task: str) -> GenerationKwargs:
        """Read what a task, or `--gen_kwargs`, asks for.

        Raises:
            ConfigError: it asks for samples or beams, or for no token.
        """
        if _draws_samples(values) or (values.get("num_beams") or 1) > 1:
            asked = ", ".join(f"{name}={values[name]}" for name in SAMPLING_KEYS if name in values)
            raise ConfigError(
                f"task {task} asks for {asked}, but lit_hour always takes the likeliest token:"
                " give --gen_kwargs temperature=0,do_sample=false,num_beams=1"
            )
        max_new_tokens = values.get("max_new_tokens")
        if max_new_tokens is not None and (
            not isinstance(max_new_tokens, int) or max_new_tokens < 1
        ):
            raise ConfigError(
                f"task {task} asks for max_new_tokens={max_new_tokens!r}: it has to be a whole number from 1"
            )
        until = values.get("until") or ()
        return cls(
            max_new_tokens,
            (until,) if isinstance(until, str) else tuple(filter(None, until)),
            tuple(name for name in values if name not in SUPPORTED + SAMPLING_KEYS),
        )

    def find_stop(self, text: str) -> int | None:
        """Where an answer ends by `until`; None if it goes on."""
        return min((text.index(stop) for stop in self.until if stop in text), default=None)


def _draws_samples(values: Mapping[str, Any]) -> bool:
    temperature, do_sample = values.get("temperature"), values.get("do_sample")
    if do_sample is None:
        return bool(temperature)
    return bool(do_sample) and temperature != 0


CAN_READ = "lit_hour reads whole video files and pictures, neither sound nor parts of a video"
PRINTED_MODES = ("CMYK", "YCbCr", "LAB", "HSV")  # those that PNG does not have


@dataclass(frozen=True)
class Prompt:
    """One question.

    Attributes:
        visuals: paths of files or opened pictures.
        text: the whole question, as the task words it.
        system_prompt: of the task; None leaves that of the run.
    """

    visuals: tuple[str | Image.Image, ...]
    text: str
    system_prompt: str | None = None


def prompt_from_visuals(visuals: Sequence[Any] | None, text: str, task: str) -> Prompt:
    """The prompt of a simple task.

    Raises:
        QuestionError: the task shows something else than files and pictures.
    """
    return Prompt(tuple(_check_visual(visual, task) for visual in visuals or ()), text)


def prompt_from_messages(messages: Sequence[dict[str, Any]], task: str) -> Prompt:
    """The prompt of a chat task.

    Where text stands before one of several pictures, each picture is marked in its place. A video, or a picture that is
    alone, is always shown in front of the question, as it is learnt.

    Raises:
        QuestionError: the task shows something else than files and pictures, or has turns before the question.
    """
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise QuestionError(
            f"task {task} has the turns {', '.join(roles)}: lit_hour answers one user turn, after a system turn"
        )
    *system, user = [_content_of(message) for message in messages]
    visuals = [_check_content(part, task) for part in user if part["type"] != "text"]
    kinds = [part["type"] for part in user]
    is_mixed = len(visuals) > 1 and "text" in kinds[: len(visuals)]
    parts = [part["text"] if part["type"] == "text" else IMAGE_TOKEN * is_mixed for part in user]
    system_prompt = "".join(part["text"] for part in system[0]) if system else None
    return Prompt(tuple(visuals), "".join(parts), system_prompt)


def save_visual(visual: str | Image.Image, folder: Path) -> Path:
    """The file of a visual; a picture is written into the folder as PNG, without loss, under a name made of its content."""
    if isinstance(visual, str):
        return Path(visual)
    data = BytesIO()
    (visual.convert("RGB") if visual.mode in PRINTED_MODES else visual).save(data, "PNG")
    file = folder / f"{hashlib.sha256(data.getvalue()).hexdigest()}.png"
    file.write_bytes(data.getvalue())
    return file


def _content_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_content(part: dict[str, Any], task: str) -> str | Image.Image:
    if (
        part["type"] not in ("image", "video")
        or part.get("start_time") is not None
        or part.get("end_time") is not None
    ):
        raise QuestionError(f"task {task} shows {part}: {CAN_READ}")
    return _check_visual(part["url"], task)


def _check_visual(visual: Any, task: str) -> str | Image.Image:
    if not isinstance(visual, str | Image.Image):
        raise QuestionError(f"task {task} shows {str(visual)[:200]}: {CAN_READ}")
    return visual
