"""The videos of a folder in, the part of them that one process of many annotates out: the same one whenever it starts again.

A folder of annotations in, the question file of all of them out, with what was dropped, and counts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import ConfigError
from lit_hour.io.atomic import whole
from lit_hour.videomarathon.annotation import Annotation, is_annotated, read_annotation
from lit_hour.videomarathon.dataset_stats import DatasetStats, write_charts
from lit_hour.videomarathon.response_cache import TokenUsage


@dataclass(frozen=True)
class Share:
    """One of `num_shares` parts that are about equal; the first has the number 1."""

    number: int = 1
    num_shares: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `3/16`, the third of sixteen.

        Raises:
            ConfigError: it is none.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.num_shares:
            raise ConfigError(
                f"--share {text} is no share: 1/16 is the first of sixteen and 16/16 the last (sbatch --array=1-16)"
            )
        return share

    def select(self, names: Sequence[str]) -> list[str]:
        """This part of the names: one of every `num_shares`."""
        return list(names[self.number - 1 :: self.num_shares])

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shares}"


QUESTIONS_NAME, DROPPED_NAME, TOTALS_NAME = "questions.json", "dropped.jsonl", "totals.json"
CHARTS_NAME = "charts"


@dataclass(frozen=True)
class Failure:
    """A video that could not be annotated: why, and how much was asked about it all the same."""

    reason: str
    usage: TokenUsage


@dataclass
class Totals:
    """What a folder of annotations holds.

    Attributes:
        num_videos: that questions are asked about.
        set_aside: other annotated videos, and why nothing is asked about them.
        failed: videos that could not be annotated, and why.
        unfinished: videos that nobody has annotated yet, or that another process is at.
        num_questions: by format, then by task.
        num_dropped: by filter.
        num_answers, prompt_tokens, answer_tokens: of the teacher, about failed videos too.
        cost: of all answers, in the currency of the prices.
    """

    num_videos: int = 0
    duration_seconds: float = 0.0
    set_aside: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    num_questions: dict[str, Counter[str]] = field(
        default_factory=lambda: {"open_ended": Counter(), "multiple_choice": Counter()}
    )
    num_dropped: Counter[str] = field(default_factory=Counter)
    num_answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0

    def count(self, annotation: Annotation, settings: VideoMarathonConfig) -> None:
        """Add a video."""
        if annotation.set_aside:
            self.set_aside[annotation.video] = annotation.set_aside
        else:
            self.num_videos += 1
            self.duration_seconds += annotation.duration_seconds
        for question in annotation.questions:
            self.num_questions[question["format"]][question["task"]] += 1
        self.num_dropped.update(dropped["filter"] for dropped in annotation.dropped)
        self.count_answers(
            TokenUsage(annotation.num_answers, annotation.prompt_tokens, annotation.answer_tokens),
            settings,
        )

    def count_missing(
        self, name: str, failure: Failure | None, settings: VideoMarathonConfig
    ) -> None:
        """Add a video without an annotation."""
        if failure is None:
            self.unfinished.append(name)
        else:
            self.failed[name] = failure.reason
            self.count_answers(failure.usage, settings)

    def count_answers(self, asked: TokenUsage, settings: VideoMarathonConfig) -> None:
        """Add what was asked about a video."""
        self.num_answers += asked.num_answers
        self.prompt_tokens += asked.prompt_tokens
        self.answer_tokens += asked.answer_tokens
        self.cost += settings.client.cost(asked.prompt_tokens, asked.answer_tokens)


def aggregate(
    out: Path,
    fingerprints: Mapping[str, str],
    settings: VideoMarathonConfig,
    failed: Mapping[str, Failure],
) -> Totals:
    """Write the files of the whole set, one video after the other.

    Args:
        marks: fingerprint that the annotation of each video has to have, by the video's name.
        failed: videos that could not be annotated.
    """
    totals, statistics = Totals(), DatasetStats()
    with whole(out / QUESTIONS_NAME) as question_file, whole(out / DROPPED_NAME) as dropped_file:
        question_file.write("[")
        separator = "\n"
        for name, mark in fingerprints.items():
            folder = out / "videos" / name
            if not is_annotated(folder, mark):
                totals.count_missing(name, failed.get(name), settings)
                continue
            annotation = read_annotation(folder)
            totals.count(annotation, settings)
            statistics.count(annotation)
            for question in annotation.questions:
                question_file.write(separator + json.dumps({"video": name, **question}))
                separator = ",\n"
            for dropped in annotation.dropped:
                dropped_file.write(json.dumps({"video": name, **dropped}) + "\n")
        question_file.write("\n]\n")
    with whole(out / TOTALS_NAME) as totals_file:
        json.dump(vars(totals), totals_file, indent=1)
    write_charts(out / CHARTS_NAME, statistics)
    return totals


def report(videos: Path, out: Path, totals: Totals) -> str:
    """What a folder of annotations holds, what it lacks, and what to do with it."""
    open_ended, multiple_choice = (
        totals.num_questions[form].total() for form in ("open_ended", "multiple_choice")
    )
    tokens = (totals.prompt_tokens + totals.answer_tokens) / 1e6
    dropped = ", ".join(f"{number} {name}" for name, number in totals.num_dropped.most_common())
    lines = [
        f"{out}: {totals.num_videos} videos ({totals.duration_seconds / 3600:.2f} hours),"
        f" {open_ended} open-ended and {multiple_choice} multiple-choice questions",
        f"asked: {totals.num_answers} answers, {tokens:.2f}M tokens, cost {totals.cost:.2f}",
        f"dropped: {totals.num_dropped.total()}"
        + (f" ({dropped})" if dropped else "")
        + f"; each is in {out / DROPPED_NAME}",
        *(f"set aside {name}: {reason}" for name, reason in totals.set_aside.items()),
        *(f"failed {name}: {reason}" for name, reason in totals.failed.items()),
    ]
    if totals.unfinished:
        lines.append(
            f"unfinished: {len(totals.unfinished)} videos, which other processes are at; the last of them gathers all"
        )
    pack = f"python -m lit_hour pack {quote(str(videos))} {quote(str(out / QUESTIONS_NAME))} {quote(str(out / 'shards'))}"
    return "\n".join([*lines, f"to pack them: {pack}"])


def report_share(
    share: Share, num_videos: int, num_unfinished: int, failed: Mapping[str, Failure]
) -> str:
    """What became of a share of the videos, and how the whole set is gathered."""
    return "\n".join(
        [
            f"share {share}: {num_videos - num_unfinished} of {num_videos} videos are annotated",
            *(f"failed {name}: {failure.reason}" for name, failure in failed.items()),
            "when every share is done, the same words without --share annotate what is left and gather all",
        ]
    )
