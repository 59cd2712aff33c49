"""Sampled answers of GRPO: their seeds by step and position, and groups kept for later steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from lit_hour.io.sampling import seed_of
from lit_hour.types import Batch, TensorRecord, tensor_fields


@dataclass(frozen=True)
class AnswerGroup(TensorRecord):
    """The sampled answers to one question.

    Attributes:
        ids: `(answers, tokens)` int64.
        num_tokens: `(answers,)`, the end token included.
        scores: `(answers, scores)` float32, as `score_answer` returns them.
        log_probs: `(answers, tokens)` float32 of the model that sampled them, zero in the padding;
            None before they are computed.
    """

    ids: Tensor
    num_tokens: Tensor
    scores: Tensor
    log_probs: Tensor | None = None

    def answers(self) -> list[Tensor]:
        """Return the token ids `(tokens,)` of each answer."""
        return [
            ids[:length] for ids, length in zip(self.ids, self.num_tokens.tolist(), strict=True)
        ]


class GroupSampler:
    """Chooses the next tokens of all answers to the texts of a batch, for `LanguageModel.generate`.

    Each text has its own generator, so its answers do not depend on the other texts of the batch.
    """

    def __init__(
        self, generators: Sequence[Generator], num_answers: int, num_tokens: int, temperature: float
    ) -> None:
        """Initialize the sampler.

        Args:
            generators: one for each text, on the CPU.
            num_answers: to each text, in consecutive rows.
            num_tokens: of the tokenizer; further rows of the embedding are never chosen.
            temperature: divides the logits.
        """
        self._generators, self._num_answers = generators, num_answers
        self._num_tokens, self._temperature = num_tokens, temperature

    def __call__(self, logits: Tensor) -> Tensor:
        """Choose the next token of each answer: `(answers, vocabulary)` -> `(answers,)`."""
        scores = logits[:, : self._num_tokens].float().cpu() / self._temperature
        groups = scores.softmax(dim=-1).split(self._num_answers)  # (group, tokens) each
        tokens = [
            torch.multinomial(group, 1, generator=generator)[:, 0]  # (group,)
            for group, generator in zip(groups, self._generators, strict=True)
        ]
        return torch.cat(tokens).to(logits.device)


def text_names(batch: Batch) -> list[str]:
    """Return a name for each text: the position of its sample in the order, and its number there.

    A batch that could not be read has no positions.
    """
    positions = batch.positions or (-1,) * len(batch.visuals)
    num_before: Counter[int] = Counter()  # texts of each visual
    names = []
    for visual in batch.visual_of_text:
        names.append(f"{positions[visual]} {num_before[visual]}")
        num_before[visual] += 1
    return names


def sampling_generators(names: Sequence[str], seed: int, step: int) -> list[Generator]:
    """Return a generator for the answers to each text, by the run's seed, the step and the text."""
    return [Generator().manual_seed(seed_of(f"{seed} answers {step} {name}")) for name in names]


class GroupStore:
    """Groups of the current step that the following steps learn from again, by the text's name.

    Checkpoints contain the groups of all ranks, so a run may resume between these steps, with any
    number of ranks.
    """

    def __init__(self) -> None:
        self._step, self._groups = -1, dict[str, AnswerGroup]()

    def begin(self, step: int) -> None:
        """Drop the groups of another step."""
        if step != self._step:
            self._step, self._groups = step, {}

    def get(self, name: str) -> AnswerGroup | None:
        """Return the group of a text; None if it has not been sampled in this step."""
        return self._groups.get(name)

    def add(self, name: str, group: AnswerGroup) -> None:
        """Keep the group of a text."""
        self._groups[name] = group

    def state_dict(self) -> dict[str, Any]:
        """Return the groups of all ranks; they call this together."""
        own = {
            name: tensor_fields(group.map_tensors(Tensor.cpu))
            for name, group in self._groups.items()
        }
        if dist.is_available() and dist.is_initialized():
            of_ranks: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(of_ranks, own)
            own = {name: group for groups in of_ranks for name, group in groups.items()}
        return {"step": self._step, "groups": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the groups of a checkpoint."""
        self._step = state.get("step", -1)
        groups = state.get("groups", {})
        self._groups = {name: AnswerGroup(**tensors) for name, tensors in groups.items()}
