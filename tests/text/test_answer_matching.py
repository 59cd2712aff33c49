import pytest

from lit_hour.text.answer_matching import is_correct
from lit_hour.types import Question

CHOICE = Question("c", "", "multiple_choice", "Which colour?", "blue", ("red", "blue", "green"))
OPEN = Question("o", "", "open_ended", "What happens?", "A red ball, then two squares.")


@pytest.mark.parametrize(
    "said",
    (
        "B",
        "B.",
        "(B)",
        " B",
        "\nB\n",
        "(B) blue",
        "B: blue",
        "B) blue",
        "B, because it is",
        "B blue",
        "Blue",
        "blue",
        "blue.",
    ),
)
def test_the_letter_or_the_words_are_right(said: str) -> None:
    assert is_correct(CHOICE, said)


@pytest.mark.parametrize(
    "said",
    (
        "A",
        "C.",
        "(A) blue",
        "Because it is blue",
        "b",
        "BB",
        "The answer is B",
        "",
        " ",
        "()",
        "<|im_end|>",
        "1",
    ),
)
def test_another_letter_or_other_words_are_wrong(said: str) -> None:
    assert not is_correct(CHOICE, said)


@pytest.mark.parametrize(("answer", "said"), (("red", "A"), ("blue", "B"), ("green", "C")))
def test_each_option_has_its_letter(answer: str, said: str) -> None:
    question = Question("c", "", "multiple_choice", "Which colour?", answer, CHOICE.options)
    assert [letter for letter in "ABCD" if is_correct(question, letter)] == [said]


@pytest.mark.parametrize(
    "said",
    (
        "A red ball, then two squares.",
        "a red ball then two squares",
        "  A RED   BALL -- then\ntwo squares!",
    ),
)
def test_case_punctuation_and_space_do_not_count(said: str) -> None:
    assert is_correct(OPEN, said)


@pytest.mark.parametrize(
    "said",
    (
        "",
        "A red ball.",
        "Two squares, then a red ball.",
        "A red ball, then two squares. Yes.",
        "Aredball",
    ),
)
def test_other_words_are_wrong(said: str) -> None:
    assert not is_correct(OPEN, said)


@pytest.mark.parametrize(
    ("answer", "said"),
    (("Straße", "STRASSE"), ("café", "CAFÉ!"), ("3", "3."), ("日本", "「日本」")),
)
def test_words_of_any_language_and_numbers_count(answer: str, said: str) -> None:
    assert is_correct(Question("o", "", "open_ended", "What?", answer), said)
