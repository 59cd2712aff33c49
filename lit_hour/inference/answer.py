"""Answers of a model about a video: a generated answer, or the likelihood of a given one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token, its log-probability, and the most likely tokens with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AnswerPiece:
    """The text that one more token adds to an answer.

    Attributes:
        text: may be empty: a part of a character, or the possible beginning of a stop text.
        index: of the answer, if several are generated.
        logprobs: of the tokens whose text has become certain, if log-probabilities are wanted; none
            of the end of the turn.
    """

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A generated answer and its cost.

    Attributes:
        text: without the stop text that ended it.
        num_memory_tokens: in the memory repository.
        num_prompt_tokens: read by the LLM: text, and the visual tokens kept by forgetting.
        num_new_tokens: generated, including the end of the turn.
        finish_reason: "stop" if the model ended its turn, or at a stop text; "length" if the answer
            was cut off.
        seconds: time spent per part: "decode", "encode", "first_token", "other_tokens".
        index: of the answer, if several are generated.
        logprobs: of the tokens of `text`, if log-probabilities are wanted.
    """

    text: str
    num_frames: int
    num_memory_tokens: int
    num_prompt_tokens: int
    num_new_tokens: int
    finish_reason: Literal["stop", "length"]
    seconds: dict[str, float]
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class LogLikelihood:
    """The log-likelihood of one given answer.

    Attributes:
        log_probability: sum over the answer's tokens and the end of the turn.
        num_tokens: of the answer, including the end of the turn.
        is_greedy: whether greedy decoding would generate this answer.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool

    @property
    def loss(self) -> float:
        """Mean negative log-probability per token, as in training."""
        return -self.log_probability / self.num_tokens
