"""Compare two models on the questions of a benchmark that both answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.config.diff import diff_settings
from lit_hour.errors import ReportError
from lit_hour.evaluation.report.metrics import MetricComparison, compare_metric
from lit_hour.evaluation.report.report import Report
from lit_hour.evaluation.report.result import Result
from lit_hour.evaluation.scoring import Interval, bootstrap_interval, mcnemar

Pair = tuple[Result, Result]  # of the first and the second model, on the same question


@dataclass(frozen=True)
class Comparison:
    """Two models side by side; a positive difference means that the first is better.

    Attributes:
        title: of the benchmark.
        num_shared: questions that both models answered and that are scored. All numbers are of
            these.
        first_accuracy: of the first model; None if no question is simply correct or wrong.
        second_accuracy: of the second model; None with `first_accuracy`.
        interval: 95% interval of the difference, by a paired bootstrap over videos; None for fewer
            than two videos.
        p_value: of McNemar's exact test, which takes questions as independent.
        metrics: name of a published score -> the scores of both models.
        groups: grouping -> value -> number of questions, and the accuracy of each model.
        only_first_correct: results of both models where only the first is correct.
        only_second_correct: results of both models where only the second is correct.
        only_in_first: ids of questions that only the first model answered.
        only_in_second: ids of questions that only the second model answered.
        protocol_differences: key -> value in each protocol.
    """

    title: str
    num_shared: int
    first_accuracy: float | None
    second_accuracy: float | None
    interval: Interval | None
    p_value: float
    metrics: Mapping[str, MetricComparison]
    groups: Mapping[str, Mapping[str, tuple[int, float, float]]]
    only_first_correct: tuple[Pair, ...]
    only_second_correct: tuple[Pair, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    protocol_differences: Mapping[str, tuple[Any, Any]]

    @property
    def difference(self) -> float | None:
        """The accuracy of the first model minus the accuracy of the second; None without one."""
        if self.first_accuracy is None or self.second_accuracy is None:
            return None
        return self.first_accuracy - self.second_accuracy

    @property
    def difference_in_points(self) -> str:
        """The difference in percentage points, such as "+1.5"."""
        return "unknown" if self.difference is None else f"{100 * self.difference:+.1f}"

    @property
    def interval_in_points(self) -> str:
        """The interval in percentage points, such as "-0.5 to +3.5"."""
        if self.interval is None:
            return "unknown"
        return " to ".join(f"{100 * end:+.1f}" for end in self.interval)


def compare(first: Report, second: Report) -> Comparison:
    """Compare two models on the questions that both answered.

    Raises:
        ReportError: the reports are of two benchmarks, share no question, or have different true
            answers to a question.
    """
    if first.benchmark != second.benchmark:
        raise ReportError(
            f"A report on {first.title} and a report on {second.title} cannot be compared."
        )
    first_results, second_results = (
        {result.id: result for result in report.results} for report in (first, second)
    )
    pairs = [
        (result, second_results[key])
        for key, result in first_results.items()
        if key in second_results and (result.correct is not None or result.scores)
    ]
    if not pairs:
        raise ReportError(
            f"The two reports on {first.title} share no question that was answered and scored."
        )
    for one, other in pairs:
        if (one.question, one.options, one.answer) != (other.question, other.options, other.answer):
            raise ReportError(
                f"Question {one.id!r} or its true answer is not the same in the two reports on"
                f" {first.title}."
            )
    decided = [pair for pair in pairs if None not in (pair[0].correct, pair[1].correct)]
    only_first = tuple(pair for pair in decided if pair[0].correct and not pair[1].correct)
    only_second = tuple(pair for pair in decided if pair[1].correct and not pair[0].correct)
    _, first_accuracy, second_accuracy = _accuracies(decided) if decided else (0, None, None)
    gains = [bool(one.correct) - bool(other.correct) for one, other in decided]
    return Comparison(
        title=first.title,
        num_shared=len(pairs),
        first_accuracy=first_accuracy,
        second_accuracy=second_accuracy,
        interval=bootstrap_interval(gains, [one.video for one, _ in decided]),
        p_value=mcnemar(len(only_first), len(only_second)),
        metrics=_compare_metrics(first, pairs),
        groups=_compare_groups(first, decided),
        only_first_correct=only_first,
        only_second_correct=only_second,
        only_in_first=tuple(key for key in first_results if key not in second_results),
        only_in_second=tuple(key for key in second_results if key not in first_results),
        protocol_differences=diff_settings(first.full_protocol, second.full_protocol),
    )


def _compare_metrics(report: Report, pairs: Sequence[Pair]) -> dict[str, MetricComparison]:
    """Compare the published scores on the questions for which both models have a value."""
    compared = {}
    for name, metric in report.metrics.items():
        values = [(one.value(metric.score), other.value(metric.score)) for one, other in pairs]
        known = [(one, other) for one, other in values if one is not None and other is not None]
        if comparison := compare_metric(metric, known):
            compared[name] = comparison
    return compared


def _accuracies(pairs: Sequence[Pair]) -> tuple[int, float, float]:
    first, second = (
        sum(bool(pair[model].correct) for pair in pairs) / len(pairs) for model in (0, 1)
    )
    return len(pairs), first, second


def _compare_groups(
    report: Report, pairs: Sequence[Pair]
) -> dict[str, dict[str, tuple[int, float, float]]]:
    """Return the accuracies in each group that has shared questions."""
    groups: dict[str, dict[str, tuple[int, float, float]]] = {}
    for grouping, scores in report.groups.items():
        for value in scores:
            if members := [pair for pair in pairs if value in pair[0].groups.get(grouping, ())]:
                groups.setdefault(grouping, {})[value] = _accuracies(members)
    return groups
