"""Verdicts of a validation -> accuracy per question format and per task, beside the chance of guessing right."""

from __future__ import annotations

import torch
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
