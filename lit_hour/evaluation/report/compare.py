"""Two reports on one benchmark in, which model is better and how sure that is out, on the questions that both were asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import ReportError
from lit_hour.evaluation.report.report import Report, Result
from lit_hour.evaluation.scoring import bootstrap_interval, mcnemar

ABSENT = "(not in it)"


@dataclass(frozen=True)
class Comparison:
    """Two models side by side; a difference above 0 says that the first is better.

    Attributes:
        num_shared: questions that both were asked and a rule scored; all shares are of these.
        interval: of the difference, by a paired bootstrap over videos; None for fewer than two videos.
        p_value: of McNemar's exact test, which takes questions as independent.
        groups: grouping -> value -> number of questions, and the share of each model.
        only_first_right, only_second_right: the results of both on the questions where they differ.
        only_in_first, only_in_second: ids of questions that only one was asked.
        protocol_differences: key -> what each protocol says.
    """

    title: str
    num_shared: int
    first_accuracy: float
    second_accuracy: float
    interval: tuple[float, float] | None
    p_value: float
    groups: Mapping[str, Mapping[str, tuple[int, float, float]]]
    only_first_correct: tuple[tuple[Result, Result], ...]
    only_second_correct: tuple[tuple[Result, Result], ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    protocol_differences: Mapping[str, tuple[Any, Any]]

    @property
    def difference(self) -> float:
        """The share of the first less that of the second."""
        return self.first_accuracy - self.second_accuracy


def compare(first: Report, second: Report) -> Comparison:
    """Compare two models on the questions that both were asked.

    Raises:
        ReportError: the reports are of two benchmarks, share no question, or disagree about a question's true answer.
    """
    if first.benchmark != second.benchmark:
        raise ReportError(f"a report on {first.title} and one on {second.title} cannot be compared")
    of_first, of_second = (
        {result.id: result for result in report.results} for report in (first, second)
    )
    pairs = [
        (of_first[key], of_second[key])
        for key in of_first
        if key in of_second and of_first[key].correct is not None
    ]
    if not pairs:
        raise ReportError(
            f"the two reports on {first.title} share no question that was asked and scored"
        )
    for one, other in pairs:
        if (one.question, one.options, one.answer) != (other.question, other.options, other.answer):
            raise ReportError(
                f"question {one.id!r} or its true answer is not the same in the two reports on {first.title}"
            )
    only_first = tuple(pair for pair in pairs if pair[0].correct and not pair[1].correct)
    only_second = tuple(pair for pair in pairs if pair[1].correct and not pair[0].correct)
    _, first_share, second_share = _shares(pairs)
    gains = [bool(one.correct) - bool(other.correct) for one, other in pairs]
    return Comparison(
        title=first.title,
        num_shared=len(pairs),
        first_accuracy=first_share,
        second_accuracy=second_share,
        interval=bootstrap_interval(gains, [one.video for one, _ in pairs]),
        p_value=mcnemar(len(only_first), len(only_second)),
        groups=_compare_groups(first, pairs),
        only_first_correct=only_first,
        only_second_correct=only_second,
        only_in_first=tuple(key for key in of_first if key not in of_second),
        only_in_second=tuple(key for key in of_second if key not in of_first),
        protocol_differences=differences(_protocol(first), _protocol(second)),
    )


def flatten(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings inside settings as one mapping, with dots in the keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            flatten(value, f"{above}{key}.")
            if isinstance(value, Mapping)
            else {f"{above}{key}": value}
        )
    return flat


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two protocols differ: key -> what each says."""
    one, other = flatten(first), flatten(second)
    keys = [key for key in {**one, **other} if one.get(key, ABSENT) != other.get(key, ABSENT)]
    return {key: (one.get(key, ABSENT), other.get(key, ABSENT)) for key in keys}


def _shares(pairs: list[tuple[Result, Result]]) -> tuple[int, float, float]:
    first, second = (
        sum(bool(pair[place].correct) for pair in pairs) / len(pairs) for place in (0, 1)
    )
    return len(pairs), first, second


def _compare_groups(
    report: Report, pairs: list[tuple[Result, Result]]
) -> dict[str, dict[str, tuple[int, float, float]]]:
    """The shares in each group of the first report of which both were asked something."""
    groups: dict[str, dict[str, tuple[int, float, float]]] = {}
    for grouping, scores in report.groups.items():
        for value in scores:
            if members := [pair for pair in pairs if value in pair[0].groups.get(grouping, ())]:
                groups.setdefault(grouping, {})[value] = _shares(members)
    return groups


def _protocol(report: Report) -> dict[str, Any]:
    return {**report.protocol, "prompts": report.prompts, "question file": report.files}
