"""Questions about when, made from the evidence of others."""

from dataclasses import replace

import pytest

from lit_hour.text.answer_matching import is_correct
from lit_hour.text.grounding import grounding_question, with_grounding_questions
from lit_hour.text.time_intervals import true_intervals
from lit_hour.types import Question

BASE = Question("v/1", "", "open_ended", "What colour is the star?", "red", (), ((12.0, 15.5),))
CHOICE = replace(BASE, id="v/2", format="multiple_choice", options=("red", "blue"))
OFTEN = tuple((10.0 * number, 10.0 * number + 1) for number in range(6))


def test_the_answer_is_the_evidence_in_the_strict_format() -> None:
    evidence = ((40.0, 41.0), (12.04, 15.0), (14.0, 15.5))
    question = grounding_question(replace(CHOICE, evidence=evidence), 100.0)
    assert question == Question(
        "v/2",
        "",
        "open_ended",
        'When does the video show the answer to "What colour is the star?"?'
        ' Give seconds, such as "12.0 s to 15.5 s".',
        "12.0 s to 15.5 s, 40.0 s to 41.0 s",
        (),
        evidence,
    )
    assert true_intervals(question.answer) == [(12.0, 15.5), (40.0, 41.0)]
    assert is_correct(question, question.answer) and not is_correct(question, "41 s to 40 s")


@pytest.mark.parametrize(
    "question",
    [
        replace(BASE, evidence=()),
        replace(BASE, evidence=((12.0, 12.0),)),
        replace(BASE, evidence=((12.0, 12.01),)),  # empty in tenths of a second
        replace(BASE, evidence=OFTEN),
        replace(BASE, evidence=((0.0, 60.0),)),  # of 100 s: more than half
        replace(BASE, evidence=((99.0, 101.0),)),  # ends after the video
        replace(BASE, question="What does the star do at 01:12?"),
        replace(BASE, question="What is seen at 72 s?"),
        replace(BASE, answer="1.0 s to 2.0 s"),
    ],
)
def test_questions_that_cannot_be_asked_for_stay(question: Question) -> None:
    assert grounding_question(question, 100.0) is None
    assert with_grounding_questions([question], 1.0, 100.0) == [question]


def test_a_share_is_drawn_by_id_and_no_question_is_asked_twice() -> None:
    questions = [
        replace(BASE, id=f"v/{number}", question=f"What is {number}?") for number in range(400)
    ]
    assert with_grounding_questions(questions, 0.0) == questions
    drawn = with_grounding_questions(questions, 0.25)
    is_new = [one != other for one, other in zip(drawn, questions, strict=True)]
    assert 70 < sum(is_new) < 130
    more = with_grounding_questions(questions, 0.5)
    assert all(one == other for one, other, new in zip(drawn, more, is_new, strict=True) if new)
    assert with_grounding_questions(questions[::-1], 0.25) == drawn[::-1]
    open_ended, choice = with_grounding_questions([BASE, CHOICE], 1.0)
    assert open_ended.answer == "12.0 s to 15.5 s" and choice == CHOICE
    assert with_grounding_questions(drawn, 1.0) == with_grounding_questions(questions, 1.0)
