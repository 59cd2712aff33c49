"""Aggregate the annotations of all videos into a question file, totals and charts: `aggregate`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.io.atomic import atomic_write
from lit_hour.videomarathon.annotation import Annotation, read_annotation
from lit_hour.videomarathon.dataset_stats import DatasetStats, write_charts
from lit_hour.videomarathon.description_records import description_records
from lit_hour.videomarathon.response_cache import TokenUsage

QUESTIONS_NAME, DROPPED_NAME, TOTALS_NAME = "questions.json", "dropped.jsonl", "totals.json"
CHARTS_NAME = "charts"


@dataclass(frozen=True)
class Failure:
    """A video that could not be annotated: the reason, and the tokens spent on it."""

    reason: str
    usage: TokenUsage


@dataclass
class DatasetTotals:
    """Contents of a folder of annotations.

    Attributes:
        num_videos: with questions.
        duration_seconds: of these videos.
        skipped: annotated videos without questions, and the reasons.
        failed: videos that could not be annotated, and the reasons.
        unfinished: videos that are not annotated yet, or that another process works on.
        num_questions: by format, then by task.
        num_descriptions: captions, lists of events, chapters and summaries, by
            `videomarathon.descriptions`.
        num_dropped: questions by filter.
        num_responses: of the teacher, including those about failed videos.
        prompt_tokens: in these responses' requests.
        completion_tokens: in these responses.
        cost: in the currency of the configured prices.
    """

    num_videos: int = 0
    duration_seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    num_questions: dict[str, Counter[str]] = field(
        default_factory=lambda: {"open_ended": Counter(), "multiple_choice": Counter()}
    )
    num_descriptions: int = 0
    num_dropped: Counter[str] = field(default_factory=Counter)
    num_responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def add(self, annotation: Annotation, config: VideoMarathonConfig) -> None:
        """Count an annotated video."""
        if annotation.skip_reason:
            self.skipped[annotation.video] = annotation.skip_reason
        else:
            self.num_videos += 1
            self.duration_seconds += annotation.duration_seconds
        for question in annotation.questions:
            self.num_questions[question["format"]][question["task"]] += 1
        self.num_dropped.update(dropped["filter"] for dropped in annotation.dropped)
        self._add_usage(annotation, config)

    def add_missing(self, name: str, failure: Failure | None, config: VideoMarathonConfig) -> None:
        """Count a video without an annotation; `failure` is None if it is only unfinished."""
        if failure is None:
            self.unfinished.append(name)
        else:
            self.failed[name] = failure.reason
            self._add_usage(failure.usage, config)

    def to_json(self) -> dict[str, Any]:
        """Return all counts; descriptions only if there are any."""
        return {
            name: value for name, value in vars(self).items() if value or name != "num_descriptions"
        }

    def _add_usage(self, usage: Annotation | TokenUsage, config: VideoMarathonConfig) -> None:
        self.num_responses += usage.num_responses
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cost += config.client.cost(usage.prompt_tokens, usage.completion_tokens)


def aggregate(
    out: Path,
    fingerprints: Mapping[str, str],
    config: VideoMarathonConfig,
    failed: Mapping[str, Failure],
) -> DatasetTotals:
    """Write the files of the whole data set, reading one annotation at a time.

    Args:
        out: folder of the annotations.
        fingerprints: expected fingerprint of each video's annotation, by the video's name.
        config: for the prices.
        failed: videos that could not be annotated.
    """
    totals, stats = DatasetTotals(), DatasetStats()
    with (
        atomic_write(out / QUESTIONS_NAME) as question_file,
        atomic_write(out / DROPPED_NAME) as dropped_file,
    ):
        question_file.write("[")
        separator = "\n"
        for name, fingerprint in fingerprints.items():
            annotation = read_annotation(out / "videos" / name, fingerprint)
            if annotation is None:
                totals.add_missing(name, failed.get(name), config)
                continue
            totals.add(annotation, config)
            stats.add(annotation)
            descriptions = list(description_records(annotation, config.descriptions))
            totals.num_descriptions += len(descriptions)
            for question in [*annotation.questions, *descriptions]:
                question_file.write(separator + json.dumps({"video": name, **question}))
                separator = ",\n"
            for dropped in annotation.dropped:
                dropped_file.write(json.dumps({"video": name, **dropped}) + "\n")
        question_file.write("\n]\n")
    with atomic_write(out / TOTALS_NAME) as totals_file:
        json.dump(totals.to_json(), totals_file, indent=1)
    write_charts(out / CHARTS_NAME, stats)
    return totals


def format_report(videos: Path, out: Path, totals: DatasetTotals) -> str:
    """Return what a folder of annotations contains and lacks, and the command that packs it."""
    open_ended, multiple_choice = (
        totals.num_questions[name].total() for name in ("open_ended", "multiple_choice")
    )
    tokens = (totals.prompt_tokens + totals.completion_tokens) / 1e6
    by_filter = ", ".join(f"{number} {name}" for name, number in totals.num_dropped.most_common())
    described = f", {totals.num_descriptions} descriptions" if totals.num_descriptions else ""
    lines = [
        f"{out}: {totals.num_videos} videos ({totals.duration_seconds / 3600:.2f} hours),"
        f" {open_ended} open-ended and {multiple_choice} multiple-choice questions{described}",
        f"teacher: {totals.num_responses} responses, {tokens:.2f}M tokens, cost {totals.cost:.2f}",
        f"dropped: {totals.num_dropped.total()} questions{f' ({by_filter})' if by_filter else ''},"
        f" listed in {out / DROPPED_NAME}",
        *(f"skipped {name}: {reason}" for name, reason in totals.skipped.items()),
        *(f"failed {name}: {reason}" for name, reason in totals.failed.items()),
    ]
    if totals.unfinished:
        lines.append(
            f"unfinished: {len(totals.unfinished)} videos that other processes work on; the last"
            " process to end aggregates all"
        )
    pack = f"{quote(str(videos))} {quote(str(out / QUESTIONS_NAME))} {quote(str(out / 'shards'))}"
    return "\n".join([*lines, f"to pack them: lit-hour pack {pack}"])
