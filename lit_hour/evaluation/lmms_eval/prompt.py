"""Parse the requests of lmms-eval's tasks: `generation_kwargs`, visuals and chat messages."""

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
SAMPLING_KEYS = ("do_sample", "temperature", "top_p", "top_k", "num_beams")  # no effect if greedy
SUPPORTED_VISUALS = "lit_hour supports whole video files and images, not audio or parts of a video"
MODES_WITHOUT_PNG = ("CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class GenerationKwargs:
    """The `generation_kwargs` of a task.

    Attributes:
        max_new_tokens: limit of the response; None for the run's `generation.max_new_tokens`.
        until: the response ends before the first of these texts.
        ignored: names without an effect in lit_hour.
    """

    max_new_tokens: int | None
    until: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any], task: str) -> GenerationKwargs:
        """Parse the values of a task or of `--gen_kwargs`.

        Raises:
            ConfigError: they request sampling, beam search, or fewer than one token.
        """
        if _samples(values) or (values.get("num_beams") or 1) > 1:
            requested = ", ".join(f"{key}={values[key]}" for key in SAMPLING_KEYS if key in values)
            raise ConfigError(
                f"Task {task} requests {requested}, but lit_hour decodes greedily."
                " Pass --gen_kwargs temperature=0,do_sample=false,num_beams=1."
            )
        max_new_tokens = values.get("max_new_tokens")
        if max_new_tokens is not None and (
            not isinstance(max_new_tokens, int) or max_new_tokens < 1
        ):
            raise ConfigError(
                f"Task {task} requests max_new_tokens={max_new_tokens!r}. It must be an integer of"
                " at least 1."
            )
        until = values.get("until") or ()
        return cls(
            max_new_tokens,
            (until,) if isinstance(until, str) else tuple(filter(None, until)),
            tuple(name for name in values if name not in SUPPORTED + SAMPLING_KEYS),
        )

    def find_stop(self, text: str) -> int | None:
        """Return where `until` ends a response; None if the response goes on."""
        return min((text.index(stop) for stop in self.until if stop in text), default=None)


def _samples(values: Mapping[str, Any]) -> bool:
    temperature, do_sample = values.get("temperature"), values.get("do_sample")
    if do_sample is None:
        return bool(temperature)
    return bool(do_sample) and temperature != 0


@dataclass(frozen=True)
class Prompt:
    """One question with its visuals.

    Attributes:
        visuals: paths of files, or images.
        text: the whole question, as the task words it.
        system_prompt: of the task; None for that of the run.
    """

    visuals: tuple[str | Image.Image, ...]
    text: str
    system_prompt: str | None = None


def prompt_from_visuals(visuals: Sequence[Any] | None, text: str, task: str) -> Prompt:
    """Build the prompt of a simple task.

    Raises:
        QuestionError: a visual is neither a file nor an image.
    """
    return Prompt(tuple(_check_visual(visual, task) for visual in visuals or ()), text)


def prompt_from_messages(messages: Sequence[dict[str, Any]], task: str) -> Prompt:
    """Build the prompt of a chat task.

    If text precedes one of several images, image tokens place each image in the text. A video or a
    single image always precedes the question, as in training.

    Raises:
        QuestionError: a visual is neither a file nor an image, or there are earlier turns.
    """
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise QuestionError(
            f"Task {task} has the turns {', '.join(roles)}. lit_hour supports one user turn, with"
            " or without a system turn before it."
        )
    *system, user = [_content_of(message) for message in messages]
    visuals = [_check_content(part, task) for part in user if part["type"] != "text"]
    kinds = [part["type"] for part in user]
    is_interleaved = len(visuals) > 1 and "text" in kinds[: len(visuals)]
    image_token = IMAGE_TOKEN if is_interleaved else ""
    texts = [part["text"] if part["type"] == "text" else image_token for part in user]
    system_prompt = "".join(part["text"] for part in system[0]) if system else None
    return Prompt(tuple(visuals), "".join(texts), system_prompt)


def save_visual(visual: str | Image.Image, folder: Path) -> Path:
    """Return the file of a visual.

    An image is saved in the folder as PNG, which is lossless, under the hash of its content.
    """
    if isinstance(visual, str):
        return Path(visual)
    data = BytesIO()
    image = visual.convert("RGB") if visual.mode in MODES_WITHOUT_PNG else visual
    image.save(data, "PNG")
    file = folder / f"{hashlib.sha256(data.getvalue()).hexdigest()}.png"
    file.write_bytes(data.getvalue())
    return file


def _content_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_content(part: dict[str, Any], task: str) -> str | Image.Image:
    is_part = part.get("start_time") is not None or part.get("end_time") is not None
    if part["type"] not in ("image", "video") or is_part:
        raise QuestionError(f"Task {task} shows {part}. {SUPPORTED_VISUALS}.")
    return _check_visual(part["url"], task)


def _check_visual(visual: Any, task: str) -> str | Image.Image:
    if not isinstance(visual, str | Image.Image):
        raise QuestionError(f"Task {task} shows {str(visual)[:200]}. {SUPPORTED_VISUALS}.")
    return visual
