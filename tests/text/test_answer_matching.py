"""Training and evaluation judge a response by the same rule."""

from __future__ import annotations

from lit_hour.evaluation.item import Item
from lit_hour.evaluation.scoring import score_response
from lit_hour.text.answer_matching import is_correct, label_options, match_option, same_words
from lit_hour.types import Question

COLORS = ("red", "blue", "green")
CHOICE = Question("c", "", "multiple_choice", "Which color?", "blue", COLORS)
OPEN = Question("o", "", "open_ended", "What happens?", "A red ball, then two squares.")

LETTER_OF_RESPONSE = {  # to a question with the options A. red, B. blue, C. green
    "B": "B",
    " B": "B",
    "\nB\n": "B",
    "B.": "B",
    "(B)": "B",
    "[B]": "B",
    "B: because the sky is": "B",
    "B blue": "B",
    "B: blue": "B",
    "B) blue": "B",
    "(B) blue": "B",
    "blue": "B",
    "Blue.": "B",
    "BLUE": "B",
    "The answer is B": "B",
    "The answer is B.": "B",
    "Answer: (B)": "B",
    "Option B": "B",
    "So, the best option is blue": "B",
    "A": "A",
    "C.": "C",
    # the letter and the text name two options
    "(A) blue": None,
    "B. red": None,
    # a letter and other text: the article in "A red car" is not the letter A
    "A blue car": None,
    "B, because it is": None,
    "B because it is": None,
    "A or B": None,
    "B!": None,
    "Because it is blue": None,
    "the blue one": None,
    "b": None,
    "BB": None,
    "D": None,
    "1": None,
    "": None,
    " ": None,
    "()": None,
    "...": None,
    "<|im_end|>": None,
}


def test_match_option_finds_a_letter_a_text_or_both_that_agree() -> None:
    for response, label in LETTER_OF_RESPONSE.items():
        assert match_option(response, label_options(COLORS), "B") == label, repr(response)


def test_training_and_evaluation_agree_on_every_response() -> None:
    options = label_options(COLORS)
    for letter, color in options.items():
        question = Question("c", "", "multiple_choice", "Which color?", color, COLORS)
        item = Item("c", ("a.mp4",), "?", "?", options, letter, "choice", {}, "here")
        for response, chosen in LETTER_OF_RESPONSE.items():
            assert is_correct(question, response) == (chosen == letter), (response, letter)
            assert score_response(item, response).correct == (chosen == letter), (response, letter)
    free = Item("o", ("a.mp4",), "?", "?", {}, OPEN.answer, "words", {}, "here")
    for response in ("", OPEN.answer, "a red ball then two squares", "Two squares."):
        assert is_correct(OPEN, response) == score_response(free, response).correct, response


def test_each_option_has_its_letter() -> None:
    for color, letter in zip(COLORS, "ABC", strict=True):
        question = Question("c", "", "multiple_choice", "Which color?", color, COLORS)
        assert [choice for choice in "ABCD" if is_correct(question, choice)] == [letter]


def test_options_of_equal_text_count_as_the_true_one() -> None:
    options = {"A": "Red", "B": "red", "C": "blue"}
    assert match_option("red", options, "B") == "B" and match_option("red", options, "C") == "A"


def test_options_without_words_are_compared_character_by_character() -> None:
    question = Question("s", "", "multiple_choice", "Which sign?", "-", ("+", "-"))
    correct = {"-": True, "B": True, "B. -": True, "+": False, "*": False, "B. +": False, "": False}
    assert {response: is_correct(question, response) for response in correct} == correct


def test_an_open_answer_is_correct_by_its_words_in_order() -> None:
    for response in (
        "A red ball, then two squares.",
        "a red ball then two squares",
        "  A RED   BALL -- then\ntwo squares!",
    ):
        assert is_correct(OPEN, response), response
    for response in (
        "",
        "A red ball.",
        "Two squares, then a red ball.",
        "A red ball, then two squares. Yes.",
        "Aredball",
    ):
        assert not is_correct(OPEN, response), response


def test_same_words_in_any_language_and_numbers() -> None:
    for answer, response in (
        ("Straße", "STRASSE"),
        ("café", "CAFÉ!"),
        ("3", "3."),
        ("日本", "「日本」"),
    ):
        assert same_words(answer, response), (answer, response)
    assert not same_words("+", "-") and not same_words("+", "")
