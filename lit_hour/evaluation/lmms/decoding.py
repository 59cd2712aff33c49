"""The `generation_kwargs` of a task -> how answers are generated: by the likeliest token. What asks for more is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import ConfigError

HONOURED = ("max_new_tokens", "until")
OF_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "num_beams")  # of no effect where the likeliest token is taken


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated.

    Attributes:
        max_new_tokens: longest answer; the run's `answer.max_new_tokens` if the task does not say.
        until: the answer ends before the first of these.
        ignored: names that the task gives and lit_hour does not know.
    """

    max_new_tokens: int | None
    until: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any], task: str) -> Decoding:
        """Read what a task, or `--gen_kwargs`, asks for.

        Raises:
            ConfigError: it asks for samples or beams, or for no token.
        """
        if _draws_samples(values) or (values.get("num_beams") or 1) > 1:
            asked = ", ".join(f"{name}={values[name]}" for name in OF_SAMPLING if name in values)
            raise ConfigError(
                f"task {task} asks for {asked}, but lit_hour always takes the likeliest token:"
                " give --gen_kwargs temperature=0,do_sample=false,num_beams=1"
            )
        max_new_tokens = values.get("max_new_tokens")
        if max_new_tokens is not None and (not isinstance(max_new_tokens, int) or max_new_tokens < 1):
            raise ConfigError(f"task {task} asks for max_new_tokens={max_new_tokens!r}: it has to be a whole number from 1")
        until = values.get("until") or ()
        return cls(
            max_new_tokens,
            (until,) if isinstance(until, str) else tuple(filter(None, until)),
            tuple(name for name in values if name not in HONOURED + OF_SAMPLING),
        )

    def find_end(self, text: str) -> int | None:
        """Where an answer ends by `until`; None if it goes on."""
        return min((text.index(stop) for stop in self.until if stop in text), default=None)


def _draws_samples(values: Mapping[str, Any]) -> bool:
    temperature, do_sample = values.get("temperature"), values.get("do_sample")
    if do_sample is None:
        return bool(temperature)
    return bool(do_sample) and temperature != 0
