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
    "B!": "B",
    "B, because it is": "B",
    "B because it is": "B",
    # the letter and the text name two options
    "(A) blue": None,
    "B. red": None,
    # a letter and other text: the article in "A red car" is not the letter A
    "A blue car": None,
    "A or B": None,
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

LONG_RESPONSES = {  # to the same question
    # an answer, and a reason before or below
    "Answer: B\nReason: option A shows a car.": "B",
    "The answer is B. Option A is wrong.": "B",
    "B. The ball has this color.": "B",
    "Answer: blue\nThe sky is blue.": "B",
    "Let me see.\nThe sky was shown.\n\nB. blue": "B",
    "A. red\nB. blue\nC. green\nThe answer is B.": "B",
    "<think>maybe A or C</think>\nB": "B",
    # Markdown, LaTeX, tags, wide letters
    "**B**": "B",
    "**Answer:** B": "B",
    "The answer is **B**.": "B",
    "**B. blue**": "B",
    "### B": "B",
    "<answer>B</answer>": "B",
    "\\boxed{B}": "B",
    "$\\boxed{\\text{B}}$": "B",
    "（Ｂ）": "B",
    # other words and languages
    "Final Answer: B": "B",
    "The correct option is B.": "B",
    "The best choice is (B) blue.": "B",
    "The correct answer to the question is B": "B",
    "La respuesta es B.": "B",
    "La respuesta correcta es la B": "B",
    "La réponse est B.": "B",
    "Die Antwort ist B": "B",
    "Die richtige Antwort lautet (B).": "B",
    "La risposta è B": "B",
    "A resposta é B": "B",
    "A resposta correta é B": "B",
    "Het antwoord is B": "B",
    "Ответ: B": "B",
    "Правильный ответ — B": "B",
    "答案是B。": "B",
    "答案：B": "B",
    "正确答案是 B": "B",
    "选B": "B",
    "答えは B": "B",
    "正解はBです": "B",
    "정답은 B입니다": "B",
    "Đáp án là B": "B",
    "Jawabannya adalah B": "B",
    "Cevap: B": "B",
    # a letter inside a sentence
    "Based on the video, the answer is B.": "B",
    "Based on the video, B.": "B",
    "I would choose option B.": "B",
    "I think it is (B).": "B",
    "Option B is correct.": "B",
    # two options are named, or one is ruled out
    "The answer is B or C.": None,
    "The answer is B. red": None,
    "Answer: A\nAnswer: B": None,
    "B\nC": None,
    "Option A or option B": None,
    "Option A\nOption C": None,
    "Either (A) or (B).": None,
    "Both A and B are correct": None,
    "The answer is not B.": None,
    "Option B is wrong.": None,
    "It shows vitamin B": None,
    "A resposta": None,
    "A red car": None,
    "I cannot tell.": None,
    "B and C": None,
    "B, not A": None,
    "It is B, red": None,
    "Answer: B (red)": None,
    "A. red\nB. blue\nC. green": None,
    "The answer is D": None,
    "Answer: B/C": None,
    "Neither B nor C.": None,
    "AB": None,
    "Not B": None,
    "The answer isn't B": None,
    "Answers: A, B": None,
    "I would not choose B": None,
    "It is not B but C": None,
}


def test_match_option_finds_a_letter_a_text_or_both_that_agree() -> None:
    for response, label in LETTER_OF_RESPONSE.items():
        assert match_option(response, label_options(COLORS), "B") == label, repr(response)


def test_match_option_understands_the_forms_that_models_write() -> None:
    for response, label in LONG_RESPONSES.items():
        assert match_option(response, label_options(COLORS), "B") == label, repr(response)


def test_match_option_tells_a_reason_from_the_text_of_another_option() -> None:
    options = {"A": "A dog", "B": "A dog and a cat", "C": "Plan B", "D": "no"}
    for response, label in {
        "The answer is B: a dog and a cat.": "B",
        "B. A dog": None,
        "Plan B": "C",
        "C. Plan B": "C",
        "The answer is (D), since nobody is there.": "D",
        "The answer is (A). There is no cat.": "A",
        "The answer is A, there is no cat.": None,
    }.items():
        assert match_option(response, options, "A") == label, repr(response)


def test_match_option_ends_on_long_odd_texts() -> None:
    for text in ("answer " * 5_000, "A" * 50_000, "B C " * 2_000, "answer is " * 5_000):
        assert match_option(text, label_options(COLORS), "B") is None


def test_training_and_evaluation_agree_on_every_response() -> None:
    options = label_options(COLORS)
    for letter, color in options.items():
        question = Question("c", "", "multiple_choice", "Which color?", color, COLORS)
        item = Item("c", ("a.mp4",), "?", "?", options, letter, "choice", {}, "here")
        for response, chosen in {**LETTER_OF_RESPONSE, **LONG_RESPONSES}.items():
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
