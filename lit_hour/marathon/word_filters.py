"""Questions in, those that are to be dropped out, by their id and with the reason: what can be told from words alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasketch import MinHash, MinHashLSH

from lit_hour.config.marathon import FilterConfig
from lit_hour.data.questions import parse_question
from lit_hour.errors import QuestionError
from lit_hour.types import Question

Faults = dict[str, str]  # id of a question -> why it is dropped

NUM_OPTIONS = 4
MARKS = ("<image>", "<video>")  # where pictures stand in the words of a training example; in an answer they mean nothing
SLACK_SECONDS = 1.0  # that evidence may end after the video: times are told rounded
LEAST_DIFFERENCE = 10  # characters by which lengths differ at least where they give an answer away
LONGEST_RUN = 3  # words in a row that count as one in the likeness of two questions
NUM_BANDS, ROWS_OF_BAND = 32, 4  # of MinHash: of two texts that share half of their runs, 7 of 8 pairs are found, of 70% all
CATCH_ALL = re.compile(r"\b(all|none|both|neither) of (the|these|those|them)\b")
EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by do does for from how in into is it its of on or that the their then there they this to was were"
        " what when where which who whom whose why will with",
    )
)


def read_question(record: dict[str, Any], duration_seconds: float) -> Question:
    """A question from the record of a draft.

    Raises:
        QuestionError: `pack` would not take the record, it has no four options, or its evidence is not in the video.
    """
    question = parse_question(record, "draft")
    if question.options and len(question.options) != NUM_OPTIONS:
        raise QuestionError(f"it has {len(question.options)} options in place of {NUM_OPTIONS}")
    if not question.evidence:
        raise QuestionError("it has no evidence")
    for start, end in question.evidence:
        if start >= duration_seconds or end > duration_seconds + SLACK_SECONDS:
            raise QuestionError(f"evidence from {start:g} s to {end:g} s in a video of {duration_seconds:.1f} s")
    for text in (question.question, question.answer, *question.options):
        if any(mark in text for mark in MARKS):
            raise QuestionError(f"a mark for pictures in {text!r}")
    return replace(question, evidence=tuple((start, min(end, duration_seconds)) for start, end in question.evidence))


def find_repeated(options: Sequence[str]) -> str | None:
    """Which two options say the same but for case, marks and articles: `The red car.` and `a red car`; None if none do."""
    seen: dict[tuple[str, ...], str] = {}
    for option in options:
        words = tuple(word for word in _words(option) if word not in ("a", "an", "the"))
        if words in seen:
            return f"{seen[words]!r} and {option!r} are the same"
        seen[words] = option
    return None


def find_given_away_by_length(questions: Sequence[Question], settings: FilterConfig) -> Faults:
    """The right option is much longer than every other, or much shorter."""
    faults = {}
    for question in questions:
        wrong = [len(option) for option in question.options if option != question.answer]
        if not wrong:
            continue
        length = len(question.answer)
        longer = length >= settings.max_length_ratio * max(wrong) and length - max(wrong) >= LEAST_DIFFERENCE
        shorter = length * settings.max_length_ratio <= min(wrong) and min(wrong) - length >= LEAST_DIFFERENCE
        if longer or shorter:
            faults[question.id] = f"the answer has {length} characters, the other options {min(wrong)} to {max(wrong)}"
    return faults


def find_given_away_by_wording(questions: Sequence[Question], settings: FilterConfig) -> Faults:
    """The question has a word of the right option and none of the others, or an option speaks of the other options."""
    faults = {}
    for question in questions:
        asked = _content(question.question)
        shared = {option: asked & _content(option) for option in question.options}
        if question.options and shared[question.answer] and not any(shared[each] for each in shared if each != question.answer):
            words = ", ".join(sorted(shared[question.answer]))
            faults[question.id] = f"of all options only the right one has words of the question: {words}"
        for option in question.options:
            if CATCH_ALL.search(option.casefold()):
                faults[question.id] = f"an option speaks of the others: {option!r}"
    return faults


def find_near_duplicates(questions: Sequence[Question], settings: FilterConfig) -> Faults:
    """A question of the same format asked almost the same before. Questions with different numbers in them are different.

    MinHash finds the candidates; the likeness of each is then counted exactly.
    """
    index = MinHashLSH(num_perm=NUM_BANDS * ROWS_OF_BAND, params=(NUM_BANDS, ROWS_OF_BAND))
    known: dict[str, tuple[list[str], set[str]]] = {}
    faults = {}
    for question in questions:
        kind = [question.format, *re.findall(r"\d+", question.question)]
        runs = _runs(f"{question.question} {question.answer}")
        hashed = MinHash(num_perm=NUM_BANDS * ROWS_OF_BAND)
        hashed.update_batch([run.encode() for run in sorted(runs)])
        candidates = [id for id in sorted(index.query(hashed)) if known[id][0] == kind]
        likeness, nearest = max(((_likeness(runs, known[id][1]), id) for id in candidates), default=(0.0, ""))
        if likeness >= settings.likeness:
            faults[question.id] = f"{likeness:.0%} of its words are those of {nearest}"
            continue
        index.insert(question.id, hashed)
        known[question.id] = kind, runs
    return faults


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _content(text: str) -> set[str]:
    return set(_words(text)) - EMPTY_WORDS


def _runs(text: str) -> set[str]:
    """Each word, and each run of up to `LONGEST_RUN` of them."""
    words = _words(text)
    return {
        " ".join(words[first : first + length])
        for length in range(1, LONGEST_RUN + 1)
        for first in range(len(words) - length + 1)
    }


def _likeness(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
