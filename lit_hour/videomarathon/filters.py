"""Filter drafts of questions: `filter_questions` keeps the usable ones and says why others go.

Filters that need only the text come first, then those that request something from the teacher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from string import ascii_uppercase
from typing import Any

from datasketch import MinHash, MinHashLSH

from lit_hour.config.videomarathon import FilterConfig
from lit_hour.data.questions.record import parse_question, question_record
from lit_hour.errors import InvalidResponseError, QuestionError
from lit_hour.io.sampling import seed_of
from lit_hour.types import Question
from lit_hour.videomarathon.llm_client import gather_all
from lit_hour.videomarathon.question_generation import Context
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema

NUM_OPTIONS = 4
PLACEHOLDERS = ("<image>", "<video>")  # reserved for visual input in training examples
SLACK_SECONDS = 1.0  # by which evidence may end after the video, because the teacher rounds times
MIN_LENGTH_DIFFERENCE = 10  # characters; smaller differences in length give nothing away
OPTION_ABOUT_OPTIONS = re.compile(r"\b(all|none|both|neither) of (the|these|those|them)\b")
MAX_NGRAM = 3  # words per n-gram in the similarity of two questions
# MinHash LSH: finds 7 of 8 pairs that share half of their n-grams, and all that share 70%.
NUM_BANDS, ROWS_PER_BAND = 32, 4
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by do does for from how in into is it its of on or that the their then"
        " there they this to was were what when where which who whom whose why will with",
    )
)

QUESTIONS_PER_VERDICT_REQUEST = 20
VERDICT_PROMPT = """\
Below are questions about the video above, each with an answer. Judge each answer by the
descriptions alone: "supported" if they say so or it follows from them, "contradicted" if they say
otherwise, "open" if they do not tell.

{listing}"""
VERDICTS = ("supported", "contradicted", "open")
VERDICT_SCHEMA = object_schema(
    verdicts=list_schema(
        object_schema(number={"type": "integer"}, verdict={"type": "string", "enum": [*VERDICTS]})
    )
)

GUESS_PROMPT = """\
Answer this question about a video that you have not seen. Give the letter of the option that is
most likely right.

{question}
{options}"""

Rejections = dict[str, str]  # reasons by question id


@dataclass(frozen=True)
class Dropped:
    """A draft that was not kept, with the filter that dropped it and the reason."""

    filter: str
    reason: str
    record: dict[str, Any]


@dataclass
class FilterResult:
    """Questions that are kept so far, and drafts that were dropped."""

    kept: list[Question] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, filter_name: str, rejections: Rejections) -> None:
        """Move the questions that a filter rejects from `kept` to `dropped`."""
        self.dropped += [
            Dropped(filter_name, rejections[question.id], question_record(question))
            for question in self.kept
            if question.id in rejections
        ]
        self.kept = [question for question in self.kept if question.id not in rejections]


async def filter_questions(
    drafts: Sequence[dict[str, Any]], context: Context, teacher: Teacher
) -> FilterResult:
    """Apply every filter to the drafts of one video.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """
    result, config = FilterResult(), teacher.config.filters
    for record in drafts:
        if repeated := find_repeated_options(record.get("options", [])):
            result.dropped.append(Dropped("repeated_options", repeated, record))
            continue
        try:
            result.kept.append(parse_draft(record, context.video.duration_seconds))
        except QuestionError as error:
            result.dropped.append(Dropped("wrong_format", str(error), record))
    result.drop("given_away_by_length", find_given_away_by_length(result.kept, config))
    result.drop("given_away_by_wording", find_given_away_by_wording(result.kept))
    result.drop("near_duplicate", find_near_duplicates(result.kept, config))
    result.drop("contradicted", await find_contradicted(result.kept, context, teacher))
    result.drop("answered_blindly", await find_answered_blindly(result.kept, teacher))
    return result


def parse_draft(record: dict[str, Any], duration_seconds: float) -> Question:
    """Return the question of a draft, its evidence clipped to the video.

    Raises:
        QuestionError: `pack` would refuse the record, it has not four options, or its evidence is
            missing or outside of the video.
    """
    question = parse_question(record, "draft")
    if question.options and len(question.options) != NUM_OPTIONS:
        raise QuestionError(f"It has {len(question.options)} options instead of {NUM_OPTIONS}.")
    if not question.evidence:
        raise QuestionError("It has no evidence.")
    for start, end in question.evidence:
        if start >= duration_seconds or end > duration_seconds + SLACK_SECONDS:
            raise QuestionError(
                f"Evidence from {start:g} s to {end:g} s is outside of a video of"
                f" {duration_seconds:.1f} s."
            )
    for text in (question.question, question.answer, *question.options):
        if any(placeholder in text for placeholder in PLACEHOLDERS):
            raise QuestionError(f"A placeholder of visual input is in {text!r}.")
    return replace(
        question,
        evidence=tuple((start, min(end, duration_seconds)) for start, end in question.evidence),
    )


def find_repeated_options(options: Sequence[str]) -> str | None:
    """Return a description of two equal options, or None.

    Case, punctuation and articles are ignored: `The red car.` equals `a red car`.
    """
    option_of_words: dict[tuple[str, ...], str] = {}
    for option in options:
        words = tuple(word for word in _words(option) if word not in ("a", "an", "the"))
        if words in option_of_words:
            return f"{option_of_words[words]!r} and {option!r} are the same"
        option_of_words[words] = option
    return None


def find_given_away_by_length(questions: Sequence[Question], config: FilterConfig) -> Rejections:
    """Reject questions if the right option is much longer or shorter than every other."""
    rejections = {}
    for question in questions:
        wrong = [len(option) for option in question.options if option != question.answer]
        if not wrong:
            continue
        length, shortest, longest = len(question.answer), min(wrong), max(wrong)
        is_longer = (
            length >= config.max_length_ratio * longest
            and length - longest >= MIN_LENGTH_DIFFERENCE
        )
        is_shorter = (
            length * config.max_length_ratio <= shortest
            and shortest - length >= MIN_LENGTH_DIFFERENCE
        )
        if is_longer or is_shorter:
            rejections[question.id] = (
                f"the answer has {length} characters, the other options {shortest} to {longest}"
            )
    return rejections


def find_given_away_by_wording(questions: Sequence[Question]) -> Rejections:
    """Reject questions that share words with the right option only, or with options about options.

    An option about the other options is "all of these" or "none of the above".
    """
    rejections = {}
    for question in questions:
        words = _content_words(question.question)
        shared = {option: words & _content_words(option) for option in question.options}
        if (
            question.options
            and shared[question.answer]
            and not any(shared[option] for option in shared if option != question.answer)
        ):
            listed = ", ".join(sorted(shared[question.answer]))
            rejections[question.id] = (
                f"of all options only the right one has words of the question: {listed}"
            )
        for option in question.options:
            if OPTION_ABOUT_OPTIONS.search(option.casefold()):
                rejections[question.id] = f"an option refers to the others: {option!r}"
    return rejections


def find_near_duplicates(questions: Sequence[Question], config: FilterConfig) -> Rejections:
    """Reject questions that are almost equal to an earlier one of the same format.

    MinHash LSH finds candidates, whose Jaccard similarity of n-grams is then computed exactly.
    Questions with different numbers in them are never duplicates.
    """
    index = MinHashLSH(num_perm=NUM_BANDS * ROWS_PER_BAND, params=(NUM_BANDS, ROWS_PER_BAND))
    kept: dict[str, tuple[list[str], set[str]]] = {}
    rejections = {}
    for question in questions:
        group = [question.format, *re.findall(r"\d+", question.question)]
        ngrams = _ngrams(f"{question.question} {question.answer}")
        min_hash = MinHash(num_perm=NUM_BANDS * ROWS_PER_BAND)
        min_hash.update_batch([ngram.encode() for ngram in sorted(ngrams)])
        candidates = [id for id in sorted(index.query(min_hash)) if kept[id][0] == group]
        similarity, nearest = max(
            ((_jaccard_similarity(ngrams, kept[id][1]), id) for id in candidates),
            default=(0.0, ""),
        )
        if similarity >= config.dedup_threshold:
            rejections[question.id] = f"{similarity:.0%} of its words are those of {nearest}"
            continue
        index.insert(question.id, min_hash)
        kept[question.id] = group, ngrams
    return rejections


async def find_contradicted(
    questions: Sequence[Question], context: Context, teacher: Teacher
) -> Rejections:
    """Reject questions if the teacher finds that the captions contradict the answer.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """
    if not teacher.config.filters.check_answers:
        return {}
    size = QUESTIONS_PER_VERDICT_REQUEST
    batches = [questions[first : first + size] for first in range(0, len(questions), size)]
    found = await gather_all(_check_batch(batch, context, teacher) for batch in batches)
    return {id: reason for rejections in found for id, reason in rejections.items()}


async def _check_batch(
    questions: Sequence[Question], context: Context, teacher: Teacher
) -> Rejections:
    listing = "\n".join(
        f"{number}. Question: {question.question}\n   Answer: {question.answer}"
        for number, question in enumerate(questions, start=1)
    )

    def parse(answer: Any) -> Rejections:
        verdict_of = {record["number"]: record["verdict"] for record in answer["verdicts"]}
        numbers = sorted(record["number"] for record in answer["verdicts"])
        if numbers != list(range(1, len(questions) + 1)):
            raise InvalidResponseError(
                f"There must be one verdict for each of {len(questions)} questions, not {numbers}."
            )
        return {
            question.id: f"the captions contradict the answer {question.answer!r}"
            for number, question in enumerate(questions, start=1)
            if verdict_of[number] == "contradicted"
        }

    parts = (context.to_prompt(), VERDICT_PROMPT.format(listing=listing))
    return await teacher.request(TeacherRequest("verdicts", parts, VERDICT_SCHEMA), parse)


async def find_answered_blindly(questions: Sequence[Question], teacher: Teacher) -> Rejections:
    """Reject questions that the teacher answers without the video in most of several trials.

    Options are shuffled for each trial. The ratio `videomarathon.filters.blind_keep_ratio` of these
    questions is kept.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """
    config = teacher.config.filters
    guessable = [question for question in questions if question.options and config.blind_trials]
    num_right = await gather_all(_count_right_guesses(question, teacher) for question in guessable)
    return {
        question.id: f"answered without the video in {right} of {config.blind_trials} trials"
        for question, right in zip(guessable, num_right, strict=True)
        if right > config.max_blind_accuracy * config.blind_trials
        and _uniform_hash(question.id) >= config.blind_keep_ratio
    }


async def _count_right_guesses(question: Question, teacher: Teacher) -> int:
    trials = range(teacher.config.filters.blind_trials)
    return sum(await gather_all(_guess(question, trial, teacher) for trial in trials))


async def _guess(question: Question, trial: int, teacher: Teacher) -> bool:
    """Return whether the teacher picks the right option without the video."""
    random = Random(f"try {trial} of {question.id}")
    options = random.sample(question.options, len(question.options))
    letters = ascii_uppercase[: len(options)]
    lettered = zip(letters, options, strict=True)
    prompt = GUESS_PROMPT.format(
        question=question.question,
        options="\n".join(f"{letter}. {option}" for letter, option in lettered),
    )
    schema = object_schema(letter={"type": "string", "enum": [*letters]})
    return await teacher.request(
        TeacherRequest("guess", (prompt,), schema, seed=trial),
        lambda answer: options[letters.index(answer["letter"])] == question.answer,
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _content_words(text: str) -> set[str]:
    return set(_words(text)) - STOP_WORDS


def _ngrams(text: str) -> set[str]:
    """Return all n-grams of one to `MAX_NGRAM` words."""
    words = _words(text)
    return {
        " ".join(words[first : first + length])
        for length in range(1, MAX_NGRAM + 1)
        for first in range(len(words) - length + 1)
    }


def _jaccard_similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _uniform_hash(id: str) -> float:
    """Return a number in [0, 1) that depends only on the id and is uniform over ids."""
    return seed_of(id, 8) / 2**64
