"""What every benchmark becomes: questions with their prompt, true answer and groups, and the records that could not be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Rule = Literal[
    "choice",
    "words",
    "video_mme",
    "longvideobench",
    "lvbench",
    "mlvu",
    "tempcompass_choice",
    "tempcompass_yes_no",
    "tempcompass_matching",
    "needs_judge",
]


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        id: unique in the benchmark: the published one, or else made from the file's task and the record's number.
        videos: relative paths at which the video may lie below a root, likeliest first.
        question: what is asked, without options and instructions.
        prompt: the whole user turn as the benchmark publishes it.
        options: label -> words, in the order shown; empty where the answer is free text.
        answer: the label of the true option, or the true text.
        rule: how `scoring` reads an answer; "needs_judge" where the benchmark leaves it to a language model.
        groups: grouping -> values, such as "task" -> ("ego",); a question may have several abilities.
        place: the file and the record.
        system: the published system prompt, "" where there is none.
        answer_start: how the published code begins the answer itself, "" where it does not.
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


@dataclass(frozen=True)
class InvalidRecord:
    """A record of a question file that cannot be used, and why."""

    location: str
    reason: str


@dataclass(frozen=True)
class QuestionSet:
    """What the files of a benchmark ask.

    Attributes:
        benchmark: its name, such as "mlvu".
        title: its name for readers, such as "MLVU dev".
        items: in the order of the files.
        refused: records that cannot be used.
        num_published: questions in the whole published benchmark; None where nobody published a number.
        files: name -> SHA-256 of each file read.
    """

    benchmark: str
    title: str
    items: tuple[Item, ...]
    invalid_records: tuple[InvalidRecord, ...] = ()
    num_published: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
