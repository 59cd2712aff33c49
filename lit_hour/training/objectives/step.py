"""Inputs and outputs of an objective in a step, and the objectives of a single forward pass.

An objective returns its mean loss over the units of a micro-batch (tokens, pairs or answers), and
their number: the loss of a step is the mean over the units of all its micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from lit_hour.config.training import Objective
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Batch


@dataclass(frozen=True)
class StepInputs:
    """A micro-batch, and what its randomness depends on.

    Attributes:
        draw: builds the generators of forgetting, one for each text; the same draws each time.
        get_processor: returns that of the data module. A loss over tokens needs none, so a plain
            script may train on a DataLoader of batches.
        step: optimizer steps before this one.
    """

    batch: Batch
    draw: Callable[[], list[Generator] | None]
    get_processor: Callable[[], HourLLaVAProcessor]
    step: int = 0


@dataclass(frozen=True)
class ObjectiveOutput:
    """Result of an objective for a micro-batch.

    Attributes:
        loss: `()`, the mean over the units; zero, with gradients of zero, without any.
        num_units: `()`.
        inputs: what the language model read.
        metrics: `(metrics, 2)` float32, of each of `TrainingObjective.metric_names` the sum and the
            number of its values.
    """

    loss: Tensor
    num_units: Tensor
    inputs: LLMInputs
    metrics: Tensor


class TrainingObjective(Protocol):
    """The loss of a step, with its metrics and its state.

    Attributes:
        metric_names: of the metrics in training and in validation, in order.
        monitor: the validation metric that the best checkpoint has, and whether it is the lowest
            ("min") or the highest ("max").
    """

    metric_names: tuple[str, ...]
    monitor: tuple[str, str]

    def training_output(self, model: HourLLaVA, step: StepInputs) -> ObjectiveOutput:
        """Compute the loss of a micro-batch."""

    def validation_metrics(
        self, model: HourLLaVA, step: StepInputs, inputs: LLMInputs, answers: Sequence[Answer]
    ) -> Tensor:
        """Compute the metrics of a validation batch, `(metrics, 2)`.

        Args:
            model: the model.
            step: the batch.
            inputs: its texts with their visual tokens.
            answers: greedy answers of the model to the texts.
        """

    def check_validation(self, metrics: Mapping[str, Tensor]) -> None:
        """Check the metrics of a validation, `()` each, over all ranks.

        Raises:
            QuestionError: `monitor` is missing, because no question has what it needs.
        """

    def start(self, model: HourLLaVA) -> None:
        """Prepare for the first step, after a checkpoint was loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to contain; all ranks call this together."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint, which is empty if another objective saved it."""


@dataclass(frozen=True)
class Answer:
    """A text that the model generated; `has_ended` if it ended within the allowed tokens."""

    text: str
    has_ended: bool


class TokenLoss:
    """The cross-entropy of the true answers, by `HourLLaVA.forward`."""

    metric_names: tuple[str, ...] = ()
    monitor = ("val/loss", "min")

    def __init__(self, name: Objective) -> None:
        self._name = name

    def training_output(self, model: HourLLaVA, step: StepInputs) -> ObjectiveOutput:
        """Compute the mean over the learned tokens."""
        output = model(step.batch, step.draw(), self._name)
        num_tokens = output.inputs.is_target.sum()  # ()
        metrics = torch.zeros(0, 2, device=num_tokens.device)  # (metrics, 2)
        return ObjectiveOutput(output.loss, num_tokens, output.inputs, metrics)

    def validation_metrics(
        self, model: HourLLaVA, step: StepInputs, inputs: LLMInputs, answers: Sequence[Answer]
    ) -> Tensor:
        """Return no metrics, `(0, 2)`."""
        return torch.zeros(0, 2, device=inputs.labels.device)

    def check_validation(self, metrics: Mapping[str, Tensor]) -> None:
        """Check nothing."""

    def start(self, model: HourLLaVA) -> None:
        """Prepare nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state of another objective."""


def metric_table(names: Sequence[str], values: dict[str, Tensor], device: torch.device) -> Tensor:
    """Return sums and counts `(metrics, 2)` of the values of each metric.

    Args:
        names: of all metrics.
        values: `(values,)` of any dtype for some of them; the others have none.
        device: of the result.
    """
    table = torch.zeros(len(names), 2, device=device)  # (metrics, 2)
    for row, name in zip(table, names, strict=True):
        if name in values:
            row[0], row[1] = values[name].detach().float().sum(), values[name].numel()
    return table
