"""Questions in, those that are to be dropped out, by their id and with the reason: what the teacher is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from random import Random
from string import ascii_uppercase
from typing import Any

from lit_hour.errors import AnswerError
from lit_hour.marathon.questions import Material
from lit_hour.marathon.teacher import Request, Teacher, list_schema, object_schema
from lit_hour.marathon.together import together
from lit_hour.marathon.word_filters import Faults
from lit_hour.types import Question

CHECKED_AT_ONCE = 20  # questions in a request

CHECK = """Below are questions about the video above, each with an answer. Judge each answer by the descriptions alone:
"supported" if they say so or it follows from them, "contradicted" if they say otherwise, "open" if they do not tell.

{listing}"""
VERDICTS = ("supported", "contradicted", "open")
CHECK_SCHEMA = object_schema(
    verdicts=list_schema(object_schema(number={"type": "integer"}, verdict={"type": "string", "enum": [*VERDICTS]}))
)

GUESS = """Answer this question about a video that you have not seen. Give the letter of the option that is most likely right.

{question}
{options}"""


async def find_contradicted(questions: Sequence[Question], material: Material, teacher: Teacher) -> Faults:
    """The captions say otherwise than the answer.

    Raises:
        AnswerError, TeacherError: as `Teacher.ask`.
    """
    if not teacher.settings.filters.check_answers:
        return {}
    batches = [questions[first : first + CHECKED_AT_ONCE] for first in range(0, len(questions), CHECKED_AT_ONCE)]
    found = await together(_check(batch, material, teacher) for batch in batches)
    return {id: reason for faults in found for id, reason in faults.items()}


async def find_answered_blindly(questions: Sequence[Question], teacher: Teacher) -> Faults:
    """The teacher picks the right option in most tries without the video, its options in another order each time.

    A share of these questions, `marathon.filters.keep_blind`, is left in.

    Raises:
        AnswerError, TeacherError: as `Teacher.ask`.
    """
    settings = teacher.settings.filters
    asked = [question for question in questions if question.options] if settings.blind_tries else []
    num_right = await together(_guess_often(question, teacher) for question in asked)
    return {
        question.id: f"answered without the video in {right} of {settings.blind_tries} tries"
        for question, right in zip(asked, num_right, strict=True)
        if right > settings.max_blind_share * settings.blind_tries and _share_of(question.id) >= settings.keep_blind
    }


async def _check(questions: Sequence[Question], material: Material, teacher: Teacher) -> Faults:
    listing = "\n".join(
        f"{number}. Question: {question.question}\n   Answer: {question.answer}"
        for number, question in enumerate(questions, start=1)
    )

    def read(answer: Any) -> Faults:
        verdict_of = {each["number"]: each["verdict"] for each in answer["verdicts"]}
        if sorted(each["number"] for each in answer["verdicts"]) != list(range(1, len(questions) + 1)):
            raise AnswerError(f"{len(questions)} verdicts are wanted, one for each question, not {sorted(verdict_of)}")
        return {
            question.id: f"the captions contradict the answer {question.answer!r}"
            for number, question in enumerate(questions, start=1)
            if verdict_of[number] == "contradicted"
        }

    return await teacher.ask(Request("verdicts", (material.told(), CHECK.format(listing=listing)), CHECK_SCHEMA), read)


async def _guess_often(question: Question, teacher: Teacher) -> int:
    """How many tries without the video are right."""
    tries = range(teacher.settings.filters.blind_tries)
    return sum(await together(_guess(question, number, teacher) for number in tries))


async def _guess(question: Question, number: int, teacher: Teacher) -> bool:
    options = Random(f"try {number} of {question.id}").sample(question.options, len(question.options))
    letters = ascii_uppercase[: len(options)]
    listing = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    schema = object_schema(letter={"type": "string", "enum": [*letters]})
    request = Request("guess", (GUESS.format(question=question.question, options=listing),), schema, seed=number)
    return await teacher.ask(request, lambda answer: options[letters.index(answer["letter"])] == question.answer)


def _share_of(id: str) -> float:
    """A number from 0 to below 1 that is always the same for a question, and evenly spread over questions."""
    return int.from_bytes(sha256(id.encode()).digest()[:8], "big") / 2**64
