"""An answer, and what it took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What the model said about a video, what it had seen, and what it took.

    Attributes:
        num_memory_tokens: that were looked back into.
        num_prompt_tokens: that the language model read: words, and the visual tokens that were not forgotten.
        num_tokens: that it wrote, the end of the turn among them.
        is_whole: it came to the end of the turn; otherwise it was cut off.
        seconds: by part: "decode", "encode", "first token", "other tokens".
    """

    text: str
    num_frames: int
    num_memory_tokens: int
    num_prompt_tokens: int
    num_tokens: int
    is_whole: bool
    seconds: dict[str, float]
