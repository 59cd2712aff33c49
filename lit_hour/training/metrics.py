"""Verdicts of a validation -> accuracy per question format and per task, beside the chance of guessing right.

Verdicts of a validation -> how accuracy depends on the length of the video and on where in it the answer is seen."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from lit_hour.taxonomy import TASKS
from lit_hour.types import Question

FORMATS = ("open_ended", "multiple_choice")
GROUPS = (*FORMATS, *(task.key for task in TASKS))


class AnswerAccuracy(Metric):
    """Counts right answers for each format and task; adds up over ranks."""

    asked: Tensor
    right: Tensor
    chance: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("asked", "right", "chance"):
            self.add_state(name, torch.zeros(len(GROUPS)), dist_reduce_fx="sum")  # (groups,)

    def update(self, question: Question, is_right: bool) -> None:
        """Count one answered question; one that names no task counts for its format alone."""
        for group in (question.format, question.task):
            if group in GROUPS:
                place = GROUPS.index(group)
                self.asked[place] += 1
                self.right[place] += is_right
                self.chance[place] += 1 / len(question.options) if question.options else 0

    def compute(self) -> dict[str, Tensor]:
        """`accuracy/GROUP` for every group that was asked about, and `chance/multiple_choice`."""
        scores = {
            f"accuracy/{group}": self.right[place] / self.asked[place]
            for place, group in enumerate(GROUPS)
            if self.asked[place]
        }
        choices = GROUPS.index("multiple_choice")
        if self.asked[choices]:
            scores["chance/multiple_choice"] = self.chance[choices] / self.asked[choices]
        return scores


LENGTHS_MINUTES = (
    1,
    2,
    3,
    5,
    7.5,
    10,
    15,
    20,
    30,
    40,
    60,
    90,
    120,
    240,
)  # the longest of each column; the last has no end
NUM_DEPTHS = 10
LARGEST_SHARE = 1 / NUM_DEPTHS  # of the video: an answer that is seen for longer has no depth


class HaystackAccuracy(Metric):
    """Counts right answers for each length of the video and depth of their evidence in it; adds up over ranks."""

    asked: Tensor
    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("asked", "right"):
            # (lengths, depths)
            self.add_state(
                name, torch.zeros(len(LENGTHS_MINUTES), NUM_DEPTHS), dist_reduce_fx="sum"
            )

    def update(self, question: Question, duration_seconds: float, is_right: bool) -> None:
        """Count an answered question, unless its answer is seen at several places or most of the time."""
        if len(question.evidence) != 1 or not duration_seconds:
            return
        start, end = question.evidence[0]
        if end - start > LARGEST_SHARE * duration_seconds:
            return
        length = min(bisect_left(LENGTHS_MINUTES, duration_seconds / 60), len(LENGTHS_MINUTES) - 1)
        depth = min(int(NUM_DEPTHS * start / duration_seconds), NUM_DEPTHS - 1)
        self.asked[length, depth] += 1
        self.right[length, depth] += is_right

    def compute(self) -> Tensor:
        """Asked and right: `(2, lengths, depths)`."""
        return torch.stack([self.asked, self.right])


def draw_haystack(counts: Tensor) -> Figure:
    """A heat map of the accuracy, one column for each length that was asked about: `(2, lengths, depths)`."""
    asked, right = counts.cpu().float()  # (lengths, depths) each
    shown = asked.sum(dim=1).nonzero()[:, 0].tolist()
    accuracy = (right / asked)[shown].T  # (depths, shown); not a number where nothing was asked
    figure = Figure(figsize=(2.2 + 0.9 * len(shown), 4.6), layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(accuracy.numpy(), vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for column, length in enumerate(shown):
        for depth in range(NUM_DEPTHS):
            if asked[length, depth]:
                axes.text(
                    column,
                    depth,
                    f"{accuracy[depth, column]:.0%}",
                    ha="center",
                    va="center",
                    fontsize=8,
                )
    totals = (
        f"{LENGTHS_MINUTES[length]:g}\n{right[length].sum() / asked[length].sum():.0%}"
        for length in shown
    )
    axes.set_xticks(range(len(shown)), totals)
    axes.set_xlabel("video: up to so many minutes, and the accuracy over all depths")
    axes.set_yticks(range(NUM_DEPTHS), (f"{10 * depth}%" for depth in range(NUM_DEPTHS)))
    axes.set_ylabel("depth: how far into it the answer is seen")
    figure.colorbar(heat, format=lambda share, _: f"{share:.0%}")
    figure.suptitle(f"right answers of {asked.sum():.0f}", fontsize=10)
    return figure


class HaystackPlot(Callback):
    """Draws the heat map of each validation, in TensorBoard and as `file`; none if no answer has one place in a video."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw it beside the scores, at the step that these count as."""
        counts: Tensor = pl_module.haystack_counts  # type: ignore[assignment]
        if trainer.sanity_checking or not trainer.is_global_zero or not counts.any():
            return
        figure = draw_haystack(counts)
        figure.savefig(self._file, dpi=120)
        trainer.logger.experiment.add_figure(
            "validation/evidence", figure, max(0, trainer.global_step - 1)
        )  # type: ignore[union-attr]
