"""Questions in, those that are to be dropped out, by their id and with the reason: what can be told from words alone.

Questions in, those that are to be dropped out, by their id and with the reason: what the teacher is asked about them.

Drafts of questions in, those that are kept out, and those that were dropped, each with the filter and its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from string import ascii_uppercase
from typing import Any

from datasketch import MinHash, MinHashLSH

from lit_hour.config.videomarathon import FilterConfig
from lit_hour.data.questions.record import parse_question, question_record
from lit_hour.errors import InvalidResponseError, QuestionError
from lit_hour.types import Question
from lit_hour.videomarathon.llm_client import gather_all
from lit_hour.videomarathon.question_generation import Context
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema

Rejections = dict[str, str]  # id of a question -> why it is dropped

NUM_OPTIONS = 4
PLACEHOLDERS = (
    "<image>",
    "<video>",
)  # where pictures stand in the words of a training example; in an answer they mean nothing
SLACK_SECONDS = 1.0  # that evidence may end after the video: times are told rounded
MIN_LENGTH_DIFFERENCE = (
    10  # characters by which lengths differ at least where they give an answer away
)
MAX_NGRAM = 3  # words in a row that count as one in the likeness of two questions
NUM_BANDS, ROWS_PER_BAND = (
    32,
    4,
)  # of MinHash: of two texts that share half of their runs, 7 of 8 pairs are found, of 70% all
CATCH_ALL = re.compile(r"\b(all|none|both|neither) of (the|these|those|them)\b")
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by do does for from how in into is it its of on or that the their then there they this to was were"
        " what when where which who whom whose why will with",
    )
)


def parse_draft(record: dict[str, Any], duration_seconds: float) -> Question:
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
            raise QuestionError(
                f"evidence from {start:g} s to {end:g} s in a video of {duration_seconds:.1f} s"
            )
    for text in (question.question, question.answer, *question.options):
        if any(mark in text for mark in PLACEHOLDERS):
            raise QuestionError(f"a mark for pictures in {text!r}")
    return replace(
        question,
        evidence=tuple((start, min(end, duration_seconds)) for start, end in question.evidence),
    )


def find_repeated_options(options: Sequence[str]) -> str | None:
    """Which two options say the same but for case, marks and articles: `The red car.` and `a red car`; None if none do."""
    seen: dict[tuple[str, ...], str] = {}
    for option in options:
        words = tuple(word for word in _words(option) if word not in ("a", "an", "the"))
        if words in seen:
            return f"{seen[words]!r} and {option!r} are the same"
        seen[words] = option
    return None


def find_given_away_by_length(questions: Sequence[Question], settings: FilterConfig) -> Rejections:
    """The right option is much longer than every other, or much shorter."""
    faults = {}
    for question in questions:
        wrong = [len(option) for option in question.options if option != question.answer]
        if not wrong:
            continue
        length = len(question.answer)
        longer = (
            length >= settings.max_length_ratio * max(wrong)
            and length - max(wrong) >= MIN_LENGTH_DIFFERENCE
        )
        shorter = (
            length * settings.max_length_ratio <= min(wrong)
            and min(wrong) - length >= MIN_LENGTH_DIFFERENCE
        )
        if longer or shorter:
            faults[question.id] = (
                f"the answer has {length} characters, the other options {min(wrong)} to {max(wrong)}"
            )
    return faults


def find_given_away_by_wording(questions: Sequence[Question], settings: FilterConfig) -> Rejections:
    """The question has a word of the right option and none of the others, or an option speaks of the other options."""
    faults = {}
    for question in questions:
        asked = _content(question.question)
        shared = {option: asked & _content(option) for option in question.options}
        if (
            question.options
            and shared[question.answer]
            and not any(shared[each] for each in shared if each != question.answer)
        ):
            words = ", ".join(sorted(shared[question.answer]))
            faults[question.id] = (
                f"of all options only the right one has words of the question: {words}"
            )
        for option in question.options:
            if CATCH_ALL.search(option.casefold()):
                faults[question.id] = f"an option speaks of the others: {option!r}"
    return faults


def find_near_duplicates(questions: Sequence[Question], settings: FilterConfig) -> Rejections:
    """A question of the same format asked almost the same before. Questions with different numbers in them are different.

    MinHash finds the candidates; the likeness of each is then counted exactly.
    """
    index = MinHashLSH(num_perm=NUM_BANDS * ROWS_PER_BAND, params=(NUM_BANDS, ROWS_PER_BAND))
    known: dict[str, tuple[list[str], set[str]]] = {}
    faults = {}
    for question in questions:
        kind = [question.format, *re.findall(r"\d+", question.question)]
        runs = _ngrams(f"{question.question} {question.answer}")
        hashed = MinHash(num_perm=NUM_BANDS * ROWS_PER_BAND)
        hashed.update_batch([run.encode() for run in sorted(runs)])
        candidates = [id for id in sorted(index.query(hashed)) if known[id][0] == kind]
        likeness, nearest = max(
            ((_jaccard_similarity(runs, known[id][1]), id) for id in candidates), default=(0.0, "")
        )
        if likeness >= settings.dedup_threshold:
            faults[question.id] = f"{likeness:.0%} of its words are those of {nearest}"
            continue
        index.insert(question.id, hashed)
        known[question.id] = kind, runs
    return faults


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _content(text: str) -> set[str]:
    return set(_words(text)) - STOP_WORDS


def _ngrams(text: str) -> set[str]:
    """Each word, and each run of up to `MAX_NGRAM` of them."""
    words = _words(text)
    return {
        " ".join(words[first : first + length])
        for length in range(1, MAX_NGRAM + 1)
        for first in range(len(words) - length + 1)
    }


def _jaccard_similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


QUESTIONS_PER_REQUEST = 20  # questions in a request

CHECK = """Below are questions about the video above, each with an answer. Judge each answer by the descriptions alone:
"supported" if they say so or it follows from them, "contradicted" if they say otherwise, "open" if they do not tell.

{listing}"""
VERDICTS = ("supported", "contradicted", "open")
CHECK_SCHEMA = object_schema(
    verdicts=list_schema(
        object_schema(number={"type": "integer"}, verdict={"type": "string", "enum": [*VERDICTS]})
    )
)

GUESS = """Answer this question about a video that you have not seen. Give the letter of the option that is most likely right.

{question}
{options}"""


async def find_contradicted(
    questions: Sequence[Question], material: Context, teacher: Teacher
) -> Rejections:
    """The captions say otherwise than the answer.

    Raises:
        InvalidResponseError, TeacherError: as `Teacher.request`.
    """
    if not teacher.settings.filters.check_answers:
        return {}
    batches = [
        questions[first : first + QUESTIONS_PER_REQUEST]
        for first in range(0, len(questions), QUESTIONS_PER_REQUEST)
    ]
    found = await gather_all(_check(batch, material, teacher) for batch in batches)
    return {id: reason for faults in found for id, reason in faults.items()}


async def find_answered_blindly(questions: Sequence[Question], teacher: Teacher) -> Rejections:
    """The teacher picks the right option in most tries without the video, its options in another order each time.

    A share of these questions, `videomarathon.filters.blind_keep_ratio`, is left in.

    Raises:
        InvalidResponseError, TeacherError: as `Teacher.request`.
    """
    settings = teacher.settings.filters
    asked = (
        [question for question in questions if question.options] if settings.blind_trials else []
    )
    num_right = await gather_all(_guess_often(question, teacher) for question in asked)
    return {
        question.id: f"answered without the video in {right} of {settings.blind_trials} tries"
        for question, right in zip(asked, num_right, strict=True)
        if right > settings.max_blind_accuracy * settings.blind_trials
        and _share_of(question.id) >= settings.blind_keep_ratio
    }


async def _check(questions: Sequence[Question], material: Context, teacher: Teacher) -> Rejections:
    listing = "\n".join(
        f"{number}. Question: {question.question}\n   Answer: {question.answer}"
        for number, question in enumerate(questions, start=1)
    )

    def read(answer: Any) -> Rejections:
        verdict_of = {each["number"]: each["verdict"] for each in answer["verdicts"]}
        if sorted(each["number"] for each in answer["verdicts"]) != list(
            range(1, len(questions) + 1)
        ):
            raise InvalidResponseError(
                f"{len(questions)} verdicts are wanted, one for each question, not {sorted(verdict_of)}"
            )
        return {
            question.id: f"the captions contradict the answer {question.answer!r}"
            for number, question in enumerate(questions, start=1)
            if verdict_of[number] == "contradicted"
        }

    return await teacher.request(
        TeacherRequest(
            "verdicts", (material.to_prompt(), CHECK.format(listing=listing)), CHECK_SCHEMA
        ),
        read,
    )


async def _guess_often(question: Question, teacher: Teacher) -> int:
    """How many tries without the video are right."""
    tries = range(teacher.settings.filters.blind_trials)
    return sum(await gather_all(_guess(question, number, teacher) for number in tries))


async def _guess(question: Question, number: int, teacher: Teacher) -> bool:
    options = Random(f"try {number} of {question.id}").sample(
        question.options, len(question.options)
    )
    letters = ascii_uppercase[: len(options)]
    listing = "\n".join(
        f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)
    )
    schema = object_schema(letter={"type": "string", "enum": [*letters]})
    request = TeacherRequest(
        "guess", (GUESS.format(question=question.question, options=listing),), schema, seed=number
    )
    return await teacher.request(
        request, lambda answer: options[letters.index(answer["letter"])] == question.answer
    )


def _share_of(id: str) -> float:
    """A number from 0 to below 1 that is always the same for a question, and evenly spread over questions."""
    return int.from_bytes(sha256(id.encode()).digest()[:8], "big") / 2**64


TEXT_FILTERS = {  # in the order in which they are applied; those that cost requests come after them
    "given_away_by_length": find_given_away_by_length,
    "given_away_by_wording": find_given_away_by_wording,
    "near_duplicate": find_near_duplicates,
}


@dataclass(frozen=True)
class Dropped:
    """A draft that was not kept: by which filter, and why."""

    filter: str
    reason: str
    record: dict[str, Any]


@dataclass
class FilterResult:
    """Questions on their way through the filters."""

    kept: list[Question]
    dropped: list[Dropped]

    def drop(self, name: str, faults: Rejections) -> None:
        """Take out those that a filter has found."""
        self.dropped += [
            Dropped(name, faults[question.id], question_record(question))
            for question in self.kept
            if question.id in faults
        ]
        self.kept = [question for question in self.kept if question.id not in faults]


async def filter_questions(
    drafts: Sequence[dict[str, Any]], material: Context, teacher: Teacher
) -> FilterResult:
    """Apply every filter to the drafts of one video.

    Raises:
        InvalidResponseError, TeacherError: as `Teacher.request`.
    """
    sieve = FilterResult([], [])
    for record in drafts:
        if repeated := find_repeated_options(record.get("options", [])):
            sieve.dropped.append(Dropped("repeated_options", repeated, record))
            continue
        try:
            sieve.kept.append(parse_draft(record, material.video.duration_seconds))
        except QuestionError as error:
            sieve.dropped.append(Dropped("wrong_format", str(error), record))
    for name, find in TEXT_FILTERS.items():
        sieve.drop(name, find(sieve.kept, teacher.settings.filters))
    sieve.drop("contradicted", await find_contradicted(sieve.kept, material, teacher))
    sieve.drop("answered_blindly", await find_answered_blindly(sieve.kept, teacher))
    return sieve
