"""A file of subtitles, and the prompts that a model gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import TokenizedText

LINE_SRT = "\n\n".join(
    f"{number + 1}\n00:00:{number:02},000 --> 00:00:{number:02},900\nLine {number}."
    for number in range(20)
)


def lines_of(prompt: str) -> list[str]:
    """Return the lines of `LINE_SRT` in a prompt."""
    return [line for line in prompt.split("\n") if line.startswith("Line")]


def record_prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every prompt that is tokenized, with `[frame]` in place of each placeholder."""
    prompts: list[str] = []
    tokenize = HourLLaVAProcessor.tokenize

    def recorded(
        self: HourLLaVAProcessor, conversations: Sequence[Any], **arguments: Any
    ) -> tuple[TokenizedText, ...]:
        texts = tokenize(self, conversations, **arguments)
        for text in texts:
            parts, ids = [], []
            for token in [*text.input_ids.tolist(), -1]:
                if token >= 0:
                    ids.append(token)
                    continue
                parts.append(str(self.tokenizer.decode(ids)))
                ids = []
            prompts.append("[frame]".join(parts))
        return texts

    monkeypatch.setattr(HourLLaVAProcessor, "tokenize", recorded)
    return prompts
