import pytest

from lit_hour.data.questions.record import drop_partial_placeholders, validate_placeholders
from lit_hour.errors import QuestionError
from lit_hour.types import Question


def ask(*texts: str, answer: str = "That.", options: tuple[str, ...] = ()) -> list[Question]:
    format = "multiple_choice" if options else "open_ended"
    return [
        Question(f"q{number}", "", format, text, answer, options)
        for number, text in enumerate(texts)
    ]


def words(questions) -> list[str]:
    return [question.question for question in questions]


@pytest.mark.parametrize(
    "texts", [("<image>A<image>?", "B?"), ("<image> A?", "B <image>?"), ("A?", "B?")]
)
def test_several_pictures_keep_as_many_marks_or_none(texts):
    assert words(validate_placeholders(ask(*texts), "images", 2, "place")) == list(texts)


@pytest.mark.parametrize(
    "texts", [("<image>A?",), ("<image><image><image>A?",), ("<image>A?", "<video>B?")]
)
def test_another_number_of_marks_is_refused(texts):
    with pytest.raises(
        QuestionError,
        match=r"place: the questions have the placeholders <.*> for 2 images\. Use <image> once per image",
    ):
        validate_placeholders(ask(*texts), "images", 2, "place")


@pytest.mark.parametrize(
    "said", [{"answer": "See <image>."}, {"answer": "no", "options": ("<image>", "no")}]
)
def test_among_several_pictures_only_questions_have_marks(said):
    with pytest.raises(QuestionError, match="place: an answer or an option has a placeholder"):
        validate_placeholders(ask("A?", **said), "images", 2, "place")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_marks_of_one_file_are_taken_away(kind):
    assert words(validate_placeholders(ask("<image>\nA?", "B <video>?"), kind, 1, "place")) == [
        "A?",
        "B ?",
    ]
    (question,) = validate_placeholders(ask("A?", answer="<image> That."), kind, 1, "place")
    assert question.answer == "That."


@pytest.mark.parametrize("kind", ["image", "images", "video"])
def test_a_question_has_words_beside_its_marks(kind):
    for questions in (ask("A?", " <image>\n"), ask("A?", "B?", answer="<image>")):
        with pytest.raises(
            QuestionError,
            match=r"place: the question 'q\d' or its answer is empty except for placeholders",
        ):
            validate_placeholders(questions, kind, 1, "place")


@pytest.mark.parametrize("mark", ["<image>", "<video>"])
def test_a_mark_without_anything_to_show_is_refused(mark):
    with pytest.raises(
        QuestionError, match=rf"place: a question has the placeholder {mark}, but the record has no"
    ):
        validate_placeholders(ask("A?", f"{mark} B?"), "text", 0, "place")
    assert words(
        validate_placeholders(ask("A?", answer=f"The tag {mark}."), "text", 0, "place")
    ) == ["A?"]


def test_questions_asked_alone_have_all_marks_or_none():
    questions = ask("<image>A?", "<image> B?", "C?")
    assert words(drop_partial_placeholders(questions, 2)) == ["<image>A?", "<image> B?", "C?"]
    assert words(drop_partial_placeholders(questions[:1], 2)) == ["A?"]
    assert words(drop_partial_placeholders(questions[1:], 2)) == ["B?", "C?"]
    assert words(drop_partial_placeholders(questions[2:], 2)) == ["C?"]
