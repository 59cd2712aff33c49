"""The response to one question with its score (`Result`), and the accuracy over some (`Score`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lit_hour.evaluation.report.metrics import QuestionValue
from lit_hour.evaluation.scoring import Interval


@dataclass(frozen=True)
class Result:
    """The response to one question, and its score.

    Attributes:
        id: of the question.
        video: path of the video in its folder.
        groups: grouping -> values.
        question: without options.
        options: label -> text.
        answer: the true label or text; "" if it is not public.
        response: text that the model generated.
        chosen: the label found in the response; None if unmatched.
        correct: None if the answer is not public, or if the benchmark leaves the verdict to a
            judge, and that gave none or only grades.
        scores: values for `Metric`, such as the grades of a judge or the IoU of an interval.
        judgment: the judge's answer, "" if there was no judge.
    """

    id: str
    video: str
    groups: Mapping[str, Sequence[str]]
    question: str
    options: Mapping[str, str]
    answer: str
    response: str
    chosen: str | None
    correct: bool | None
    scores: Mapping[str, float] = field(default_factory=dict)
    judgment: str = ""

    def value(self, score: str) -> QuestionValue | None:
        """Return the value for a metric, "correct" or a key of `scores`; None if there is none."""
        known = self.correct if score == "correct" else self.scores.get(score)
        task = next(iter(self.groups.get("task", ())), "")
        return None if known is None else QuestionValue(float(known), self.video, task)

    @property
    def is_unmatched(self) -> bool:
        """True if no rule understands the response; an empty response is not unmatched."""
        is_scored_by_rule = self.correct is not None and not self.judgment
        return is_scored_by_rule and self.chosen is None and bool(self.response.strip())


@dataclass(frozen=True)
class Score:
    """The accuracy over some questions.

    Attributes:
        num_questions: in the files, evaluated or not.
        num_evaluated: of these, with a response (which may be empty).
        num_answered: of these, with a response that is not empty.
        num_unmatched: of these, with a response that no rule understands.
        num_correct: correct responses.
        accuracy: correct responses per evaluated question; None if none was evaluated.
        interval: 95% interval of the accuracy; None for fewer than two videos.
    """

    num_questions: int
    num_evaluated: int
    num_answered: int
    num_unmatched: int
    num_correct: int
    accuracy: float | None
    interval: Interval | None


def percent(share: float) -> str:
    """Return a share in percent with one decimal."""
    return f"{100 * share:.1f}"
