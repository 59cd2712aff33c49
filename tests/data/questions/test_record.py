import json

import pytest

from lit_hour.data.questions.record import did_you_mean, parse_question, question_record
from lit_hour.errors import QuestionError
from lit_hour.types import Question


def test_what_is_written_reads_back():
    question = Question(
        "1", "scene/scene_transition", "multiple_choice", "Q?", "y", ("x", "y"), ((0.5, 2.0),)
    )
    assert parse_question(json.loads(json.dumps(question_record(question))), "place") == question


def test_marks_are_read_back_too():
    question = Question("1", "", "open_ended", "Is <image> or <image> larger?", "The first.")
    assert parse_question(question_record(question), "place") == question


@pytest.mark.parametrize("record", [None, [], "text"])
def test_what_is_no_mapping_is_refused(record):
    with pytest.raises(QuestionError, match="place: a question must be a mapping"):
        parse_question(record, "place")


def test_half_a_character_is_refused():
    record = {"id": "1", "question": "What is \ud83d?", "answer": "It."}
    with pytest.raises(QuestionError, match="place: key 'question' contains a lone surrogate"):
        parse_question(record, "place")


def test_the_nearest_word_is_proposed_if_it_is_near():
    assert did_you_mean("opitons", ["answer", "options"]) == "; did you mean 'options'?"
    assert did_you_mean("image_id", ["image"]) == "; did you mean 'image'?"
    assert (
        did_you_mean("image_id", ["image"], 0.8)
        == did_you_mean("colour", ["answer", "options"])
        == ""
    )
