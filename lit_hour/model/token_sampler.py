"""Choose the next tokens from logits: greedily or by sampling, with the processors of transformers.

Entry point: `TokenSampler`, which `LanguageModel.generate` calls once per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    """Chooses the tokens of several answers to one prompt, one step at a time.

    Attributes:
        logprobs: of each answer's latest token: its log-probability, and the most likely tokens
            with theirs. They are those of the model, before any processor. Empty unless
            `num_top_logprobs` is given.
    """

    def __init__(
        self,
        params: SamplingParams,
        num_tokens: int,
        device: torch.device,
        constraints: Sequence[TokenConstraint] = (),
    ) -> None:
        """Prepare for the first token.

        Args:
            params: how to sample.
            num_tokens: of the tokenizer; further rows of the embedding are never chosen.
            device: of the logits.
            constraints: for each answer, which tokens may come next; empty for all.
        """
        self.logprobs: list[tuple[float, list[tuple[int, float]]]] = []
        self._params, self._num_tokens, self._constraints = params, num_tokens, constraints
        self._ids = torch.empty(params.num_choices, 0, dtype=torch.int64, device=device)
        self._processors = _build_processors(params)
        self._generators = _build_generators(params, device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Choose the next token of each answer.

        Args:
            logits: `(answers, vocabulary)`.

        Returns:
            `(answers,)` int64.
        """
        logits = logits.float()  # (answers, vocabulary)
        scores = logits.clone()  # (answers, vocabulary)
        scores[:, self._num_tokens :] = -torch.inf
        for index, constraint in enumerate(self._constraints):
            allowed = constraint(self._ids[index].tolist()).to(scores.device)  # (tokens,)
            scores[index, : len(allowed)].masked_fill_(~allowed, -torch.inf)
            scores[index, len(allowed) :] = -torch.inf
        scores = self._processors(
            self._ids,  # type: ignore[arg-type]  # LongTensor is for annotations alone
            scores,
        )  # (answers, vocabulary)
        if self._params.temperature < MIN_TEMPERATURE:
            tokens = scores.argmax(dim=-1)  # (answers,)
        else:
            probabilities = scores.softmax(dim=-1)  # (answers, vocabulary)
            tokens = torch.cat(
                [
                    torch.multinomial(row, 1, generator=generator)
                    for row, generator in zip(probabilities, self._generators, strict=True)
                ]
            )  # (answers,)
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)  # (answers, steps)
        if self._params.num_top_logprobs is not None:
            self.logprobs = _report(logits, tokens, self._params.num_top_logprobs)
        return tokens


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


def _build_generators(params: SamplingParams, device: torch.device) -> list[torch.Generator]:
    """Return a generator for each answer; the ranks of one model get the same."""
    if params.temperature < MIN_TEMPERATURE:
        return []
    seed = params.seed
    if seed is None:
        drawn = torch.randint(2**62, (1,), device=device, generator=_new_generator(device))  # (1,)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(drawn, 0)
        seed = int(drawn)
    return [torch.Generator(device).manual_seed((seed + index) % 2**63) for index in params.choices]


def _new_generator(device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.seed()
    return generator


def _report(
    logits: Tensor, tokens: Tensor, num_top: int
) -> list[tuple[float, list[tuple[int, float]]]]:
    """Return the log-probability of each answer's token, and the most likely tokens with theirs."""
    log_probabilities = logits.log_softmax(dim=-1)  # (answers, vocabulary)
    chosen = log_probabilities.gather(1, tokens[:, None])[:, 0].tolist()  # (answers,)
    top = log_probabilities.topk(min(num_top, logits.shape[1]), dim=-1)  # (answers, top)
    return [
        (logprob, list(zip(ids, values, strict=True)))
        for logprob, ids, values in zip(
            chosen, top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]
