"""Build the report of a model on a benchmark: its scores, and how they were obtained.

Entry point: `build_report`; `write_report` and `read_report` store it as JSON. Every question of
the benchmark is in the report. A question without a response is skipped with a reason and makes the
score one "on N of M questions"; an unmatched response counts as wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_hour.errors import ReportError
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.report.metrics import Metric, compute_metric
from lit_hour.evaluation.report.result import Result, Score, percent
from lit_hour.evaluation.scoring import (
    Judgment,
    bootstrap_interval,
    score_response,
    stated_intervals,
)
from lit_hour.io.atomic import atomic_write_text
from lit_hour.io.hashing import hash_path
from lit_hour.text.time_intervals import grounding_scores

FORMAT = 3
SEEN_GROUPING = "video in the training data"
NO_REASON = "no response and no reason was given"


@dataclass(frozen=True)
class Report:
    """The scores of one model on one benchmark.

    Attributes:
        benchmark: name in the settings.
        title: name for readers.
        score: over all questions that a rule can score. Invalid records count as questions.
        groups: grouping -> value -> score.
        group_means: grouping -> unweighted mean accuracy of its groups.
        metrics: the other scores that the benchmark publishes, such as "M-Avg".
        num_published: questions in the whole benchmark; None if unknown.
        protocol: how the model was evaluated: frames, decoding, hashes, versions.
        prompts: as `describe_prompts` returns.
        files: question file -> SHA-256.
        invalid_records: location of a record -> reason.
        skipped: id of a question without a response -> reason.
        results: of all questions with a response.
        not_compared: training data that could not be compared with the videos -> reason.
    """

    benchmark: str
    title: str
    score: Score
    groups: Mapping[str, Mapping[str, Score]]
    group_means: Mapping[str, float]
    metrics: Mapping[str, Metric]
    num_published: int | None
    protocol: Mapping[str, Any]
    prompts: Mapping[str, Any]
    files: Mapping[str, str]
    invalid_records: Mapping[str, str]
    skipped: Mapping[str, str]
    results: tuple[Result, ...]
    not_compared: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_title(self) -> str:
        """The benchmark with run and checkpoint: "MLVU dev, run tiny, checkpoint best"."""
        checkpoint = self.protocol.get("checkpoint")
        if not isinstance(checkpoint, Mapping) or "path" not in checkpoint:
            return self.title
        path = Path(checkpoint["path"])  # RUN/checkpoints/NAME
        return f"{self.title}, run {path.absolute().parents[1].name}, checkpoint {path.stem}"

    @property
    def num_seen(self) -> int:
        """Number of evaluated questions about videos that the run was trained on."""
        score = self.groups.get(SEEN_GROUPING, {}).get("yes")
        return score.num_evaluated if score else 0

    @property
    def wrong(self) -> list[Result]:
        """The results that are not correct, unmatched ones included."""
        return [result for result in self.results if result.correct is False]

    @property
    def unmatched(self) -> list[Result]:
        """The results with an unmatched response; published code may have a model judge them."""
        return [result for result in self.results if result.is_unmatched]

    @property
    def needs_judge(self) -> list[Result]:
        """The results that were not judged and count in no score."""
        return [
            result
            for result in self.results
            if result.correct is None and result.answer and not result.scores
        ]

    @property
    def num_without_answer(self) -> int:
        """Number of responses to questions without a public answer."""
        return sum(not result.answer for result in self.results)

    @property
    def full_protocol(self) -> dict[str, Any]:
        """The protocol with the prompts and the hashes of the question files."""
        return {**self.protocol, "prompts": self.prompts, "question file": self.files}

    def summary(self) -> str:
        """Return one line: "LVBench, run ...: 61.2% (59.0 to 63.3) on 1500 of 1549".

        Published scores stand first: "MLVU dev: M-Avg 60.1% (57.9 to 62.2); 61.2% ...".
        """
        metrics = "".join(f"{name} {metric.text}; " for name, metric in self.metrics.items())
        return f"{self.full_title}: {metrics}{self._summarize_accuracy()}"

    def _summarize_accuracy(self) -> str:
        score = self.score
        if score.accuracy is None and self.num_without_answer:
            return f"{self.num_without_answer} responses to questions without public answers"
        if score.accuracy is None:
            return f"no score on 0 of {score.num_questions} questions"
        ends = " to ".join(map(percent, score.interval)) if score.interval else ""
        interval = f" ({ends})" if ends else ""
        counts = f"on {score.num_evaluated} of {score.num_questions} questions"
        return f"{percent(score.accuracy)}%{interval} {counts}"


def build_report(
    questions: QuestionSet,
    responses: Mapping[str, str],
    skipped: Mapping[str, str],
    protocol: Mapping[str, Any],
    judgments: Mapping[str, Judgment] | None = None,
    not_compared: Mapping[str, str] | None = None,
) -> Report:
    """Score the responses of a model.

    Args:
        questions: of the benchmark.
        responses: question id -> text that the model generated.
        skipped: question id -> why there is no response, such as a missing video.
        protocol: how the model was evaluated; any JSON value.
        judgments: question id -> what a judge says about the response.
        not_compared: training data that could not be compared with the videos -> reason.

    Raises:
        ReportError: an id is unknown or is in both mappings, or JSON cannot represent the protocol.
    """
    _check_ids(questions, responses, skipped)
    plain_protocol = _to_json_types(protocol, questions.title)
    judgments = judgments or {}
    results = tuple(
        _score_item(item, responses[item.id], judgments.get(item.id))
        for item in questions.items
        if item.id in responses
    )
    not_scored = {result.id for result in results if result.correct is None}
    scored_items = [
        item
        for item in questions.items
        if (item.rule != "needs_judge" and item.answer)
        or (item.id in judgments and item.id not in not_scored)
    ]
    groups = _score_groups(scored_items, results)
    means = {grouping: _mean_accuracy(scores) for grouping, scores in groups.items()}
    return Report(
        benchmark=questions.benchmark,
        title=questions.title,
        score=_score(results, len(scored_items) + len(questions.invalid_records)),
        groups=groups,
        group_means={grouping: mean for grouping, mean in means.items() if mean is not None},
        metrics=_compute_metrics(questions, results),
        num_published=questions.num_published,
        protocol=plain_protocol,
        prompts=describe_prompts(questions.items),
        files=dict(questions.files),
        invalid_records={record.location: record.reason for record in questions.invalid_records},
        skipped={
            item.id: skipped.get(item.id, NO_REASON)
            for item in questions.items
            if item.id not in responses
        },
        results=results,
        not_compared=dict(not_compared or {}),
    )


def mark_seen(questions: QuestionSet, seen: Set[str]) -> QuestionSet:
    """Group the questions by whether the run was trained on their video; unchanged if on none.

    Args:
        questions: of the benchmark.
        seen: ids of the questions about videos of the training data.
    """
    if not seen:
        return questions
    items = (
        replace(item, groups={**item.groups, SEEN_GROUPING: ("yes" if item.id in seen else "no",)})
        for item in questions.items
    )
    return replace(questions, items=tuple(items))


def _check_ids(
    questions: QuestionSet, responses: Mapping[str, str], skipped: Mapping[str, str]
) -> None:
    known = {item.id for item in questions.items}
    for what, ids in (("a response", responses), ("a reason to skip", skipped)):
        if unknown := [key for key in ids if key not in known]:
            raise ReportError(
                f"There is {what} for {unknown[0]!r}, which is not a question of {questions.title}."
            )
    if both := [key for key in responses if key in skipped]:
        raise ReportError(f"Question {both[0]!r} has both a response and a reason to skip it.")


def _to_json_types(protocol: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the protocol after a round trip through JSON."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(protocol))
    except (TypeError, ValueError) as error:
        raise ReportError(
            f"The protocol of {title} must consist of numbers, texts, lists and mappings: {error}"
        ) from error
    return plain


def _score_item(item: Item, response: str, judgment: Judgment | None) -> Result:
    verdict = None if item.rule == "needs_judge" else score_response(item, response)
    correct = verdict.correct if verdict else judgment.correct if judgment else None
    correct = correct if item.answer else None
    scores = dict(judgment.scores) if judgment else {}
    if item.rule == "intervals":
        scores = grounding_scores(stated_intervals(item, response), item.intervals)
    return Result(
        id=item.id,
        video=item.video_name,
        groups={grouping: list(values) for grouping, values in item.groups.items()},
        question=item.question,
        options=dict(item.options),
        answer=item.answer,
        response=response,
        chosen=verdict.label if verdict else None,
        correct=correct,
        scores=scores,
        judgment=judgment.text if judgment else "",
    )


def _compute_metrics(questions: QuestionSet, results: Sequence[Result]) -> dict[str, Metric]:
    """Compute the published scores for which there are responses."""
    metrics = {}
    for spec in questions.metrics:
        values = [value for result in results if (value := result.value(spec.score))]
        if metric := compute_metric(spec, values):
            metrics[spec.name] = metric
    return metrics


def describe_prompts(items: Sequence[Item]) -> dict[str, Any]:
    """Return the first prompt as an example, the SHA-256 of all prompts, and the scoring rules."""
    texts = [
        [item.id, item.system_prompt, item.prompt, item.answer_start]
        + [[one.start_seconds, one.end_seconds, one.text] for one in item.subtitles]
        for item in items
    ]
    return {
        "first system prompt": items[0].system_prompt if items else "",
        "first prompt": items[0].prompt if items else "",
        "first answer begins with": items[0].answer_start if items else "",
        "digest": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "rules": sorted({item.rule for item in items}),
    }


def _score(results: Iterable[Result], num_questions: int) -> Score:
    scored = [result for result in results if result.correct is not None]
    correct = [bool(result.correct) for result in scored]
    return Score(
        num_questions=num_questions,
        num_evaluated=len(scored),
        num_answered=sum(bool(result.response.strip()) for result in scored),
        num_unmatched=sum(result.is_unmatched for result in scored),
        num_correct=sum(correct),
        accuracy=sum(correct) / len(correct) if correct else None,
        interval=bootstrap_interval(correct, [result.video for result in scored]),
    )


def _score_groups(items: Iterable[Item], results: Iterable[Result]) -> dict[str, dict[str, Score]]:
    """Score each value of each grouping: numbers ascending, texts in order of appearance."""
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


def _mean_accuracy(scores: Mapping[str, Score]) -> float | None:
    """Return the unweighted mean over the groups; None if one of them was not evaluated."""
    known = [score.accuracy for score in scores.values() if score.accuracy is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def write_report(report: Report, file: Path) -> None:
    """Write the report as JSON, atomically; `read_report` reads it back."""
    atomic_write_text(file, json.dumps({"format": FORMAT, **asdict(report)}, indent=1) + "\n")


def read_report(file: Path) -> Report:
    """Read a report that `write_report` wrote.

    Raises:
        ReportError: the file cannot be read, or is not a report of this format.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if (number := record.pop("format")) != FORMAT:
            raise ReportError(
                f"{file} has report format {number}; this version of lit_hour reads format"
                f" {FORMAT}. Run `lit-hour evaluate` again to write it anew."
            )
        record["score"] = _read_score(record["score"])
        record["groups"] = {
            grouping: {value: _read_score(score) for value, score in scores.items()}
            for grouping, scores in record["groups"].items()
        }
        record["metrics"] = {
            name: Metric(**_with_interval({**metric, "tasks": tuple(metric["tasks"])}))
            for name, metric in record["metrics"].items()
        }
        record["results"] = tuple(Result(**result) for result in record["results"])
        return Report(**record)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"The report {file} cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{file} is not a report of an evaluation: {error!r}") from error


def read_reports_of(checkpoint: Path, evaluations: Path) -> list[Report]:
    """Read the reports in RUN/evaluation that are on a checkpoint, by the hash of its weights.

    Raises:
        ReportError: see `read_report`.
    """
    files = sorted(evaluations.glob("*/report.json"))
    digest = hash_path(checkpoint) if files else ""
    reports = map(read_report, files)
    return [one for one in reports if one.protocol["checkpoint"]["SHA-256"] == digest]


def _read_score(record: dict[str, Any]) -> Score:
    return Score(**_with_interval(record))


def _with_interval(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its interval, a list in JSON, as a tuple."""
    interval = record["interval"]
    return {**record, "interval": None if interval is None else (interval[0], interval[1])}
