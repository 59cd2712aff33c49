"""Questions and a model's answers in, a score with its whole protocol out.

A question without an answer is never right and never dropped in silence: it is skipped with a reason, and makes the score
"on N of M". Answers that no rule understands are wrong.


A report in, one JSON file out, and back."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_hour.errors import ReportError
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.scoring import bootstrap_interval, score_answer
from lit_hour.io.atomic import write_whole

NO_REASON = "no answer was handed in, and no reason"


@dataclass(frozen=True)
class Result:
    """What a model said to one question.

    Attributes:
        chosen: the label understood, None for an unmatched answer.
        right: None where the benchmark leaves the verdict to a judge.
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


@dataclass(frozen=True)
class Score:
    """The share of right answers among the questions asked.

    Attributes:
        num_questions: in the files, asked or not.
        num_asked: of these, the model was asked.
        num_answered: of these, it said something.
        num_unmatched: of these, no rule understood what.
        share: right ones among those asked; None if none was.
        interval: of the share, 95%; None for fewer than two videos.
    """

    num_questions: int
    num_evaluated: int
    num_answered: int
    num_unmatched: int
    num_correct: int
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Report:
    """The scores of one model on one benchmark.

    Attributes:
        score: over all questions that a rule can score; the records refused count among its questions.
        groups: grouping -> value -> score.
        group_means: grouping -> mean share of its groups, each counting the same, as MLVU publishes it.
        num_published: questions in the whole benchmark.
        protocol: how the model was asked: frames, decoding, hashes, versions.
        prompts: the first prompt as an example, the SHA-256 of all of them, and the rules that read the answers.
        files: question file -> SHA-256.
        refused: place of an unusable record -> reason.
        skipped: id of a question that was not asked -> reason.
        results: of every question asked.
    """

    benchmark: str
    title: str
    score: Score
    groups: Mapping[str, Mapping[str, Score]]
    group_means: Mapping[str, float]
    num_published: int | None
    protocol: Mapping[str, Any]
    prompts: Mapping[str, Any]
    files: Mapping[str, str]
    invalid_records: Mapping[str, str]
    skipped: Mapping[str, str]
    results: tuple[Result, ...]

    @property
    def wrong(self) -> list[Result]:
        """The results that are not right, unmatched ones among them."""
        return [result for result in self.results if result.correct is False]

    @property
    def unmatched(self) -> list[Result]:
        """The answers that no rule understands; the published code may ask a judge about them."""
        return [result for result in self.results if _is_unmatched(result)]

    @property
    def needs_judge(self) -> list[Result]:
        """The answers that need a judge, and count in no score."""
        return [result for result in self.results if result.correct is None]

    def summary(self) -> str:
        """One line: "MLVU dev: 61.2% (59.0 to 63.3) on 2100 of 2175 questions"."""
        if self.score.accuracy is None:
            return f"{self.title}: no score on 0 of {self.score.num_questions} questions"
        low_high = (
            f" ({percent(self.score.interval[0])} to {percent(self.score.interval[1])})"
            if self.score.interval
            else ""
        )
        asked = f"on {self.score.num_evaluated} of {self.score.num_questions} questions"
        return f"{self.title}: {percent(self.score.accuracy)}%{low_high} {asked}"


def percent(share: float) -> str:
    """A share in percent with one digit behind the point."""
    return f"{100 * share:.1f}"


def build_report(
    questions: QuestionSet,
    answers: Mapping[str, str],
    skipped: Mapping[str, str],
    protocol: Mapping[str, Any],
) -> Report:
    """Score a model's answers.

    Args:
        answers: question id -> what the model said.
        skipped: question id -> why it was not asked, such as a video that is missing.
        protocol: how it was asked; whatever JSON holds.

    Raises:
        ReportError: an id is unknown, or is both answered and skipped; or JSON cannot hold the protocol.
    """
    _check_ids(questions, answers, skipped)
    try:
        plain_protocol = json.loads(json.dumps(protocol))
    except (TypeError, ValueError) as error:
        raise ReportError(
            f"the protocol of {questions.title} has to be numbers, texts, lists and mappings: {error}"
        ) from error
    results = tuple(
        _result(item, answers[item.id]) for item in questions.items if item.id in answers
    )
    scored = [item for item in questions.items if item.rule != "needs_judge"]
    groups = _scores_of_groups(scored, results)
    return Report(
        benchmark=questions.benchmark,
        title=questions.title,
        score=_score(results, len(scored) + len(questions.invalid_records)),
        groups=groups,
        group_means={
            grouping: mean
            for grouping, scores in groups.items()
            if (mean := _mean(scores)) is not None
        },
        num_published=questions.num_published,
        protocol=plain_protocol,
        prompts=describe_prompts(questions.items),
        files=dict(questions.files),
        invalid_records={record.location: record.reason for record in questions.invalid_records},
        skipped={
            item.id: skipped.get(item.id, NO_REASON)
            for item in questions.items
            if item.id not in answers
        },
        results=results,
    )


def _check_ids(
    questions: QuestionSet, answers: Mapping[str, str], skipped: Mapping[str, str]
) -> None:
    known = {item.id for item in questions.items}
    for what, ids in (("an answer", answers), ("a reason to skip", skipped)):
        if unknown := [identifier for identifier in ids if identifier not in known]:
            raise ReportError(
                f"there is {what} for {unknown[0]!r}, which is no question of {questions.title}"
            )
    if both := [identifier for identifier in answers if identifier in skipped]:
        raise ReportError(f"{both[0]!r} has both an answer and a reason why it was not asked")


def _result(item: Item, said: str) -> Result:
    verdict = None if item.rule == "needs_judge" else score_answer(item, said)
    return Result(
        id=item.id,
        video=item.videos[0],
        groups={grouping: list(values) for grouping, values in item.groups.items()},
        question=item.question,
        options=dict(item.options),
        answer=item.answer,
        response=said,
        chosen=verdict.label if verdict else None,
        correct=verdict.correct if verdict else None,
    )


def describe_prompts(items: Sequence[Item]) -> dict[str, Any]:
    """The first prompt as an example, the SHA-256 of all of them, and the rules that read the answers."""
    texts = [[item.id, item.system_prompt, item.prompt, item.answer_start] for item in items]
    return {
        "first system prompt": items[0].system_prompt if items else "",
        "first prompt": items[0].prompt if items else "",
        "first answer begins with": items[0].answer_start if items else "",
        "digest": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "rules": sorted({item.rule for item in items}),
    }


def _is_unmatched(result: Result) -> bool:
    return result.correct is not None and result.chosen is None and bool(result.response.strip())


def _score(results: Iterable[Result], num_questions: int) -> Score:
    scored = [result for result in results if result.correct is not None]
    right = [bool(result.correct) for result in scored]
    return Score(
        num_questions=num_questions,
        num_evaluated=len(scored),
        num_answered=sum(bool(result.response.strip()) for result in scored),
        num_unmatched=sum(map(_is_unmatched, scored)),
        num_correct=sum(right),
        accuracy=sum(right) / len(right) if right else None,
        interval=bootstrap_interval(right, [result.video for result in scored]),
    )


def _scores_of_groups(
    items: Iterable[Item], results: Iterable[Result]
) -> dict[str, dict[str, Score]]:
    """A score for each value of each grouping, numbers in order, words in the order in which they first come."""
    num_questions: dict[tuple[str, str], int] = defaultdict(int)
    for item in items:
        for grouping, values in item.groups.items():
            for value in values:
                num_questions[grouping, value] += 1
    members: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        for grouping, shared in result.groups.items():
            for value in shared:
                members[grouping, value].append(result)
    groups: dict[str, dict[str, Score]] = defaultdict(dict)
    for grouping, value in sorted(
        num_questions, key=lambda pair: int(pair[1]) if pair[1].isdecimal() else 0
    ):
        groups[grouping][value] = _score(members[grouping, value], num_questions[grouping, value])
    return dict(groups)


def _mean(scores: Mapping[str, Score]) -> float | None:
    """The mean share of the groups, None where one of them was not asked."""
    shares = [score.accuracy for score in scores.values() if score.accuracy is not None]
    return sum(shares) / len(shares) if len(shares) == len(scores) else None


FORMAT = 2


def write_report(report: Report, file: Path) -> None:
    """Write the report as JSON, which `read_report` reads back; the file is whole or not there."""
    write_whole(file, json.dumps({"format": FORMAT, **asdict(report)}, indent=1) + "\n")


def read_report(file: Path) -> Report:
    """Read a report that `write_report` wrote.

    Raises:
        ReportError: the file cannot be read or holds no report of this format.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if (number := record.pop("format")) != FORMAT:
            raise ReportError(
                f"{file} has report format {number}; this version of lit_hour reads format {FORMAT}."
                " Run `lit-hour evaluate` again to write it anew."
            )
        record["score"] = _read_score(record["score"])
        record["groups"] = {
            grouping: {value: _read_score(score) for value, score in scores.items()}
            for grouping, scores in record["groups"].items()
        }
        record["results"] = tuple(Result(**result) for result in record["results"])
        return Report(**record)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{file}: the report cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{file} is no report of an evaluation: {error!r}") from error


def _read_score(record: dict[str, Any]) -> Score:
    interval = record["interval"]
    return Score(**{**record, "interval": None if interval is None else (interval[0], interval[1])})
