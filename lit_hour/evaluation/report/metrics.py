"""Compute the scores that a benchmark publishes: means over questions, or over its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_hour.evaluation.item import MetricSpec
from lit_hour.evaluation.scoring import Interval, bootstrap_interval


@dataclass(frozen=True)
class QuestionValue:
    """The value of one question for a metric, with its video and its task ("" if it has none)."""

    value: float
    video: str
    task: str


@dataclass(frozen=True)
class Metric:
    """A published score.

    Attributes:
        score: what was averaged: "correct", or a key of `Result.scores`.
        tasks: as in `MetricSpec`.
        maximum: full mark; 1 is shown in percent.
        num_questions: that were averaged.
        value: the mean, in [0, maximum].
        interval: 95% interval of the mean; None for fewer than two videos.
    """

    score: str
    tasks: tuple[str, ...]
    maximum: float
    num_questions: int
    value: float
    interval: Interval | None

    @property
    def text(self) -> str:
        """The value with its interval, such as "61.2% (59.0 to 63.3)" or "4.10 of 10"."""
        ends = " to ".join(map(self.format, self.interval)) if self.interval else ""
        unit = "%" if self.maximum == 1 else f" of {self.maximum:g}"
        return f"{self.format(self.value)}{unit}{f' ({ends})' if ends else ''}"

    def format(self, value: float) -> str:
        """Return a value in percent with one decimal, or in points with two."""
        return f"{100 * value:.1f}" if self.maximum == 1 else f"{value:.2f}"


@dataclass(frozen=True)
class MetricComparison:
    """A published score of two models on the questions that both answered.

    Attributes:
        maximum: full mark; 1 is shown in percent.
        first: score of the first model.
        second: score of the second model.
        interval: 95% interval of the difference, by a paired bootstrap over videos; None for fewer
            than two videos.
    """

    maximum: float
    first: float
    second: float
    interval: Interval | None

    @property
    def text(self) -> str:
        """The difference with its interval in (percentage) points: "+1.5 (-0.5 to +3.5)"."""
        scale, digits = (100, 1) if self.maximum == 1 else (1, 2)
        difference = f"{scale * (self.first - self.second):+.{digits}f}"
        if self.interval is None:
            return difference
        return (
            f"{difference} ({' to '.join(f'{scale * end:+.{digits}f}' for end in self.interval)})"
        )


def compare_metric(
    metric: Metric, pairs: Sequence[tuple[QuestionValue, QuestionValue]]
) -> MetricComparison | None:
    """Compare the values of two models on the same questions; None if one has no score.

    Args:
        metric: of one of the models.
        pairs: the values of both models, question by question.
    """
    first, second = (mean_value([pair[model] for pair in pairs], metric.tasks) for model in (0, 1))
    if first is None or second is None:
        return None
    gains = [replace(one, value=one.value - other.value) for one, other in pairs]
    return MetricComparison(metric.maximum, first, second, mean_interval(gains, metric.tasks))


def compute_metric(spec: MetricSpec, values: Sequence[QuestionValue]) -> Metric | None:
    """Average the values of the questions, or of the tasks of a metric with equal weights.

    Returns:
        None if there is no value, or none of one of the tasks.
    """
    mean = mean_value(values, spec.tasks)
    if mean is None:
        return None
    interval, used = mean_interval(values, spec.tasks), members(values, spec.tasks)
    return Metric(spec.score, spec.tasks, spec.maximum, len(used), mean, interval)


def members(values: Sequence[QuestionValue], tasks: Sequence[str]) -> list[QuestionValue]:
    """Return the values of the questions of some tasks; all of them without tasks."""
    return [value for value in values if not tasks or value.task in tasks]


def mean_value(values: Sequence[QuestionValue], tasks: Sequence[str]) -> float | None:
    """Return the mean over all questions, or the unweighted mean over tasks; None if one is empty.

    Args:
        values: of the questions.
        tasks: with equal weights; empty for a mean over all questions.
    """
    groups = [[value for value in values if value.task == task] for task in tasks] or [list(values)]
    if not all(groups):
        return None
    means = [sum(value.value for value in group) / len(group) for group in groups]
    return sum(means) / len(means)


def mean_interval(values: Sequence[QuestionValue], tasks: Sequence[str]) -> Interval | None:
    """Return the bootstrap interval of `mean_value`."""
    used = members(values, tasks)
    return bootstrap_interval(
        [value.value for value in used],
        [value.video for value in used],
        tasks=[value.task for value in used] if tasks else (),
    )
