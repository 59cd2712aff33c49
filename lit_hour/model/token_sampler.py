"""Choose the next tokens from logits: greedily or by sampling, with the processors of transformers.

Entry point: `TokenSampler`, one for each answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lit_hour.config.sampling_params import SamplingParams

MIN_TEMPERATURE = 1e-5  # below it, dividing by it overflows, and sampling is greedy anyway

TokenConstraint = Callable[[list[int]], Tensor]
"""From the tokens generated so far to those that may come next: `(vocabulary,)` bool."""


class TokenSampler:
    """Chooses the tokens of one answer, one step at a time.

    Attributes:
        logprob: of the latest token: its log-probability, and the most likely tokens with theirs.
            They are those of the model, before any processor. None unless `num_top_logprobs` is
            given.
    """

    def __init__(
        self,
        params: SamplingParams,
        num_tokens: int,
        device: torch.device,
        index: int = 0,
        constraint: TokenConstraint | None = None,
    ) -> None:
        """Prepare for the first token.

        Args:
            params: how to sample.
            num_tokens: of the tokenizer; further rows of the embedding are never chosen.
            device: of the logits.
            index: of the answer, if several are sampled with one seed.
            constraint: which tokens may come next; None for all.
        """
        self.logprob: tuple[float, list[tuple[int, float]]] | None = None
        self._params, self._num_tokens, self._constraint = params, num_tokens, constraint
        self._ids: list[int] = []
        self._processors = _build_processors(params)
        is_sampled = params.temperature >= MIN_TEMPERATURE
        self._generator = _build_generator(params, device, index) if is_sampled else None
        self.takes_most_likely = not (
            is_sampled
            or self._processors
            or constraint is not None
            or params.num_top_logprobs is not None
        )  # so that a batch may choose the tokens of many answers at once

    def __call__(self, logits: Tensor) -> int:
        """Choose the next token.

        Args:
            logits: `(vocabulary,)`.
        """
        logits = logits.float()  # (vocabulary,)
        scores = logits.clone()  # (vocabulary,)
        scores[self._num_tokens :] = -torch.inf
        if self._constraint is not None:
            allowed = self._constraint(self._ids).to(scores.device)  # (tokens,)
            scores[: len(allowed)].masked_fill_(~allowed, -torch.inf)
            scores[len(allowed) :] = -torch.inf
        ids = torch.tensor([self._ids], dtype=torch.int64, device=scores.device)  # (1, steps)
        scores = self._processors(
            ids,  # type: ignore[arg-type]  # LongTensor is for annotations alone
            scores[None],
        )[0]  # (vocabulary,)
        if self._generator is None:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator))
        self._ids.append(token)
        if self._params.num_top_logprobs is not None:
            self.logprob = _report(logits, token, self._params.num_top_logprobs)
        return token


class RepetitionPenalty(LogitsProcessor):
    """OpenAI's frequency and presence penalties, which are subtracted from the logits."""

    def __init__(self, frequency: float, presence: float) -> None:
        """Args are as in `SamplingParams`."""
        self._frequency, self._presence = frequency, presence

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Lower the scores `(answers, vocabulary)` of the tokens `(answers, steps)`."""
        counts = torch.zeros_like(scores)  # (answers, vocabulary)
        counts.scatter_add_(1, input_ids, torch.ones_like(input_ids, dtype=scores.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)


def _build_processors(params: SamplingParams) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if params.frequency_penalty or params.presence_penalty:
        processors.append(RepetitionPenalty(params.frequency_penalty, params.presence_penalty))
    if params.temperature >= MIN_TEMPERATURE:
        processors.append(TemperatureLogitsWarper(float(params.temperature)))
        if params.top_k:
            processors.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            processors.append(TopPLogitsWarper(params.top_p))
    return processors


def _build_generator(params: SamplingParams, device: torch.device, index: int) -> torch.Generator:
    """Return the random numbers of one answer; the ranks of one model get the same."""
    seed = params.seed
    if seed is None:
        drawn = torch.randint(2**62, (1,), device=device, generator=_new_generator(device))  # (1,)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(drawn, 0)
        seed = int(drawn)
    return torch.Generator(device).manual_seed((seed + index) % 2**63)


def _new_generator(device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.seed()
    return generator


def _report(logits: Tensor, token: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log-probability of a token, and the most likely tokens with theirs."""
    log_probabilities = logits.log_softmax(dim=-1)  # (vocabulary,)
    top = log_probabilities.topk(min(num_top, len(logits)))  # (top,)
    pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return float(log_probabilities[token]), pairs
