"""Sampling parameters of one request or command: how the tokens of an answer are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from lit_hour.config.fields import field


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of generation, with the meaning that they have in OpenAI's API.

    Attributes:
        seed: of the random numbers; drawn at random if None.
        stop: texts that end an answer and are not part of it.
        num_top_logprobs: most likely tokens to report beside each token; None for no
            log-probabilities at all.
        json_schema: as JSON; the answer is JSON that it permits. None for free text.
        max_new_tokens: limit below `generation.max_new_tokens`; None for that one alone.
    """

    temperature: float = field(0.0, "0 for the most likely token, else sampling", ge=0, le=2)
    top_p: float = field(1.0, "share of the probability to sample from", gt=0, le=1)
    top_k: int = field(0, "number of tokens to sample from; 0 for all", ge=0, le=1_000_000)
    seed: int | None = field(None, "seed of the sampling", ge=-(2**63), le=2**63 - 1)
    frequency_penalty: float = field(
        0.0, "lowers the logit of a token by this for each time it was generated", ge=-2, le=2
    )
    presence_penalty: float = field(
        0.0, "lowers the logit of a token by this once it was generated", ge=-2, le=2
    )
    stop: tuple[str, ...] = field((), "texts that end an answer")
    num_choices: int = field(1, "answers to one question", ge=1, le=16)
    num_top_logprobs: int | None = field(None, "tokens with log-probabilities", ge=0, le=20)
    json_schema: str | None = field(None, "JSON schema of the answer")
    max_new_tokens: int | None = field(None, "longest answer", unit="tokens", ge=1)

    @property
    def choices(self) -> range:
        """Indices of the answers."""
        return range(self.num_choices)


GREEDY = SamplingParams()
