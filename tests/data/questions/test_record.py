import json
from collections import Counter

import pytest

from lit_hour.data.questions.record import (
    SampleSpec,
    did_you_mean,
    drop_partial_placeholders,
    format_counts,
    parse_question,
    question_record,
    validate_placeholders,
)
from lit_hour.errors import QuestionError
from lit_hour.types import Question


def make_questions(
    *texts: str, answer: str = "That.", options: tuple[str, ...] = ()
) -> list[Question]:
    format = "multiple_choice" if options else "open_ended"
    return [
        Question(f"q{number}", "", format, text, answer, options)
        for number, text in enumerate(texts)
    ]


def texts_of(questions) -> list[str]:
    return [question.question for question in questions]


# Records


def test_question_record_and_parse_question_are_inverse():
    choice = Question(
        "1", "scene/scene_transition", "multiple_choice", "Q?", "y", ("x", "y"), ((0.5, 2.0),)
    )
    placeholders = Question("1", "", "open_ended", "Is <image> or <image> larger?", "The first.")
    for question in (choice, placeholders):
        assert parse_question(json.loads(json.dumps(question_record(question))), "a") == question


@pytest.mark.parametrize("record", [None, [], "text"])
def test_parse_question_rejects_records_that_are_not_mappings(record):
    with pytest.raises(QuestionError, match="a: a question must be a mapping"):
        parse_question(record, "a")


def test_parse_question_rejects_lone_surrogates():
    record = {"id": "1", "question": "What is \ud83d?", "answer": "It."}
    with pytest.raises(QuestionError, match="a: key 'question' contains a lone surrogate"):
        parse_question(record, "a")


def test_did_you_mean_suggests_similar_words_above_the_cutoff():
    assert did_you_mean("opitons", ["answer", "options"]) == "; did you mean 'options'?"
    assert did_you_mean("image_id", ["image"]) == "; did you mean 'image'?"
    assert did_you_mean("image_id", ["image"], 0.8) == ""
    assert did_you_mean("color", ["answer", "options"]) == ""


# Samples


@pytest.mark.parametrize(
    ("sample", "key", "name"),
    [
        (SampleSpec("video", ("a b/c.1.mp4",), 0, ()), "a_b/c_1", "a b/c.1.mp4"),
        (SampleSpec("image", ("ü.jpg",), 0, ()), "_", "ü.jpg"),
        (SampleSpec("images", ("a.jpg", "b.jpg"), 12, ()), "record_00000012", "record_00000012"),
        (SampleSpec("text", (), 123456789, ()), "record_123456789", "record_123456789"),
    ],
)
def test_key_and_name_of_a_sample(sample, key, name):
    assert (sample.key, sample.name) == (key, name)


def test_format_counts_leaves_out_zeros():
    counts = Counter(["text", "video", "text", "images"])
    assert format_counts(counts) == "1 videos, 1 image sets, 2 texts"
    assert format_counts(Counter()) == "nothing"


# Placeholders


@pytest.mark.parametrize(
    "texts", [("<image>A<image>?", "B?"), ("<image> A?", "B <image>?"), ("A?", "B?")]
)
def test_image_set_keeps_one_placeholder_per_image_or_none(texts):
    questions = validate_placeholders(make_questions(*texts), "images", 2, "a")
    assert texts_of(questions) == list(texts)


@pytest.mark.parametrize(
    "texts", [("<image>A?",), ("<image><image><image>A?",), ("<image>A?", "<video>B?")]
)
def test_image_set_with_another_number_of_placeholders_is_rejected(texts):
    message = r"a: the questions contain <.*> for 2 images\. Use <image> once for each image"
    with pytest.raises(QuestionError, match=message):
        validate_placeholders(make_questions(*texts), "images", 2, "a")


@pytest.mark.parametrize(
    "answers", [{"answer": "See <image>."}, {"answer": "no", "options": ("<image>", "no")}]
)
def test_answers_about_an_image_set_must_not_have_placeholders(answers):
    with pytest.raises(QuestionError, match="a: an answer or option contains a placeholder"):
        validate_placeholders(make_questions("A?", **answers), "images", 2, "a")


@pytest.mark.parametrize("modality", ["image", "video"])
def test_placeholders_of_a_single_file_are_removed_and_their_blanks_kept(modality):
    questions = make_questions("<image>\nA?", "B <video>?", "C? <image>")
    questions = validate_placeholders(questions, modality, 1, "a")
    assert texts_of(questions) == ["\nA?", "B ?", "C? "]
    assert [parse_question(question_record(one), "a") for one in questions] == list(questions)
    questions = make_questions("A?", answer="<image> That.")
    (question,) = validate_placeholders(questions, modality, 1, "a")
    assert question.answer == "That."


@pytest.mark.parametrize("modality", ["image", "images", "video"])
def test_question_or_answer_of_placeholders_alone_is_rejected(modality):
    for questions in (
        make_questions("A?", " <image>\n"),
        make_questions("A?", "B?", answer="<image>"),
    ):
        message = r"a: question 'q\d' or its answer has no text beside placeholders"
        with pytest.raises(QuestionError, match=message):
            validate_placeholders(questions, modality, 1, "a")


@pytest.mark.parametrize("placeholder", ["<image>", "<video>"])
def test_placeholder_in_a_question_of_a_text_is_rejected(placeholder):
    message = f"a: a question contains {placeholder}, but the record has no video or image"
    with pytest.raises(QuestionError, match=message):
        validate_placeholders(make_questions("A?", f"{placeholder} B?"), "text", 0, "a")
    questions = make_questions("A?", answer=f"The tag {placeholder}.")
    assert texts_of(validate_placeholders(questions, "text", 0, "a")) == ["A?"]


def test_drop_partial_placeholders_keeps_complete_ones():
    questions = make_questions("<image>A?", "<image> B?", "C?")
    assert texts_of(drop_partial_placeholders(questions, 2)) == ["<image>A?", "<image> B?", "C?"]
    assert texts_of(drop_partial_placeholders(questions[:1], 2)) == ["A?"]
    assert texts_of(drop_partial_placeholders(questions[1:], 2)) == [" B?", "C?"]
    assert texts_of(drop_partial_placeholders(questions[2:], 2)) == ["C?"]
