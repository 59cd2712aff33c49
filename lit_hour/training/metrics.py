"""Metrics: accuracy by question format and task, by video length and depth, IoU, named means."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.text.time_intervals import SCORE_NAMES, Interval, grounding_scores
from lit_hour.types import Question

FORMATS = ("open_ended", "multiple_choice")
GROUPS = (*FORMATS, *TASK_OF_KEY)
MULTIPLE_CHOICE = GROUPS.index("multiple_choice")

# Upper bounds of the video lengths in minutes; the last group has none.
LENGTHS_MINUTES = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 60, 90, 120, 240)
NUM_DEPTHS = 10
MAX_EVIDENCE_SHARE = 1 / NUM_DEPTHS  # of the video: longer evidence has no single depth


class AnswerAccuracy(Metric):
    """Accuracy for each question format and task, and of guessing; the counts sum over ranks."""

    total: Tensor
    correct: Tensor
    chance: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "correct", "chance"):
            self.add_state(name, torch.zeros(len(GROUPS)), dist_reduce_fx="sum")  # (groups,)

    def update(self, question: Question, is_correct: bool) -> None:
        """Count an answered question for its format and, if it names one, for its task."""
        for group in (question.format, question.task):
            if group in GROUPS:
                index = GROUPS.index(group)
                self.total[index] += 1
                self.correct[index] += is_correct
                self.chance[index] += 1 / len(question.options) if question.options else 0

    def compute(self) -> dict[str, Tensor]:
        """Return `acc/GROUP` for each group with questions, and `chance/multiple_choice`.

        Each is `()` float32 in [0, 1].
        """
        scores = {
            f"acc/{group}": self.correct[index] / self.total[index]
            for index, group in enumerate(GROUPS)
            if self.total[index]
        }
        if self.total[MULTIPLE_CHOICE]:
            chance = self.chance[MULTIPLE_CHOICE] / self.total[MULTIPLE_CHOICE]
            scores["chance/multiple_choice"] = chance
        return scores


class HaystackAccuracy(Metric):
    """Counts of questions and correct answers by video length and depth; they sum over ranks."""

    total: Tensor
    correct: Tensor

    def __init__(self) -> None:
        super().__init__()
        shape = (len(LENGTHS_MINUTES), NUM_DEPTHS)
        for name in ("total", "correct"):
            self.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")  # (lengths, depths)

    def update(self, question: Question, duration_seconds: float, is_correct: bool) -> None:
        """Count an answered question with one evidence interval of up to a tenth of the video."""
        if len(question.evidence) != 1 or not duration_seconds:
            return
        start, end = question.evidence[0]
        if end - start > MAX_EVIDENCE_SHARE * duration_seconds:
            return
        length = min(bisect_left(LENGTHS_MINUTES, duration_seconds / 60), len(LENGTHS_MINUTES) - 1)
        depth = min(int(NUM_DEPTHS * start / duration_seconds), NUM_DEPTHS - 1)
        self.total[length, depth] += 1
        self.correct[length, depth] += is_correct

    def compute(self) -> Tensor:
        """Return the counts of questions and of correct answers, `(2, lengths, depths)`."""
        return torch.stack([self.total, self.correct])


class TemporalIoU(Metric):
    """Means of `grounding_scores` over questions about time intervals; the sums are over ranks."""

    num_questions: Tensor
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("num_questions", torch.zeros(()), dist_reduce_fx="sum")  # ()
        self.add_state("sums", torch.zeros(len(SCORE_NAMES)), dist_reduce_fx="sum")  # (scores,)

    def update(self, stated: Sequence[Interval], true: Sequence[Interval]) -> None:
        """Count a question; it does not count if its true answer has no intervals."""
        if not true:
            return
        scores = grounding_scores(stated, true)
        self.num_questions += 1
        self.sums += self.sums.new_tensor([scores[name] for name in SCORE_NAMES])  # (scores,)

    def compute(self) -> dict[str, Tensor]:
        """Return `grounding/SCORE` for each score, `()` in [0, 1]; nothing without a question."""
        if not self.num_questions:
            return {}
        means = self.sums / self.num_questions  # (scores,)
        names = (f"grounding/{name.replace(' ', '_')}" for name in SCORE_NAMES)
        return dict(zip(names, means, strict=True))


class NamedMeans(Metric):
    """Means by name, from tables of sums and counts; both sum over ranks."""

    table: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = tuple(names)
        self.add_state("table", torch.zeros(len(names), 2), dist_reduce_fx="sum")  # (names, 2)

    def update(self, table: Tensor) -> None:
        """Add sums and counts, `(names, 2)`."""
        self.table += table

    def compute(self) -> dict[str, Tensor]:
        """Return the means, `()` each; nothing for a name without a count."""
        means = named_means(self._names, self.table)
        return {name: torch.tensor(mean) for name, mean in means.items()}


def named_means(names: Sequence[str], table: Tensor) -> dict[str, float]:
    """Return the mean of each name with a count, from sums and counts `(names, 2)`."""
    return {
        name: total / count
        for name, (total, count) in zip(names, table.tolist(), strict=True)
        if count
    }
