"""Data classes of a benchmark: a question with its prompt and answer, and a set of questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lit_hour.data.questions.record import InvalidRecord, format_clip
from lit_hour.types import Subtitle

Rule = Literal[
    "choice",
    "words",
    "intervals",
    "video_mme",
    "longvideobench",
    "lvbench",
    "mlvu",
    "mlvu_lmms_eval",
    "tempcompass_choice",
    "tempcompass_yes_no",
    "tempcompass_matching",
    "needs_judge",
]
JudgePrompt = Literal["", "sub_scene", "summary", "caption"]


@dataclass(frozen=True)
class Item:
    """One question of a benchmark (in lmms-eval: a doc).

    Attributes:
        id: unique in the benchmark. The published one, or made from the task and the record number.
        videos: relative paths that the video may have in a folder of videos, most likely first.
        question: without options and instructions.
        prompt: the whole user turn, as the benchmark publishes it.
        options: label -> text, in the order shown; empty for an open-ended question.
        answer: the label of the true option, or the true text; "" if it is not public.
        rule: how `scoring` reads a response; "needs_judge" if the benchmark has a language model
            judge it.
        groups: grouping -> values, such as "task" -> ("ego",); a question may have several values.
        location: file and record, for messages.
        system_prompt: the published one, "" if there is none.
        answer_start: text with which the published code begins the response, "" if there is none.
        clip_seconds: start and end of the part of the video that is shown; None for all of it.
        subtitle_file: name of the published file of subtitles, "" if there is none.
        subtitle_start_seconds: time in that file at which the video begins.
        duration_seconds: of the video, as published; 0 if it is not.
        subtitles: put between the frames, with times from the start of the video.
        judge_prompt: which prompt of the judge is meant for the response, "" if a rule scores it.
        scoring_points: what a good response mentions, as published for the judge.
        intervals: of the true answer in seconds, for the rule "intervals".
    """

    id: str
    videos: tuple[str, ...]
    question: str
    prompt: str
    options: Mapping[str, str]
    answer: str
    rule: Rule
    groups: Mapping[str, tuple[str, ...]]
    location: str
    system_prompt: str = ""
    answer_start: str = ""
    clip_seconds: tuple[float, float] | None = None
    subtitle_file: str = ""
    subtitle_start_seconds: float = 0.0
    duration_seconds: float = 0.0
    subtitles: tuple[Subtitle, ...] = ()
    judge_prompt: JudgePrompt = ""
    scoring_points: tuple[str, ...] = ()
    intervals: tuple[tuple[float, float], ...] = ()

    @property
    def video_name(self) -> str:
        """The most likely path of the video, with the part of it that is shown."""
        return self.videos[0] + format_clip(self.clip_seconds)


@dataclass(frozen=True)
class MetricSpec:
    """A score of a benchmark: a mean over all questions, or an unweighted mean over its tasks.

    Attributes:
        name: as it is published, such as "M-Avg".
        score: what is averaged: "correct", or a key of `Result.scores`.
        tasks: values of the grouping "task" with equal weights; empty for a mean over all
            questions. Without a response to each task there is no score.
        maximum: full mark. 1 is shown in percent.
    """

    name: str
    score: str
    tasks: tuple[str, ...] = ()
    maximum: float = 1.0


@dataclass(frozen=True)
class QuestionSet:
    """All questions in the files of a benchmark.

    Attributes:
        benchmark: name in the settings, such as "mlvu".
        title: name for readers, such as "MLVU dev".
        items: in the order of the files.
        invalid_records: those that cannot be used.
        num_published: questions in the whole published benchmark; None if unknown.
        files: file name -> SHA-256.
        metrics: the scores that the benchmark publishes besides the share of correct responses.
    """

    benchmark: str
    title: str
    items: tuple[Item, ...]
    invalid_records: tuple[InvalidRecord, ...] = ()
    num_published: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[MetricSpec, ...] = ()
