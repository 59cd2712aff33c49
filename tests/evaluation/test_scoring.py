"""Each rule finds the label in a response; odd cases come from the published code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from lit_hour.evaluation.item import Item, Rule
from lit_hour.evaluation.scoring import RULES, Verdict, score_response
from tests import REPOSITORY

COLORS = {"A": "Red", "B": "Dark blue", "C": "A green one"}
CAPTIONS = {"Option 1": "A man runs.", "Option 2": "A man sleeps."}


def make_item(rule: Rule, options: dict[str, str], answer: str) -> Item:
    return Item("1", ("a.mp4",), "Which?", "Which?", options, answer, rule, {}, "here")


def check_labels(item: Item, label_of_response: Mapping[str, str | None]) -> None:
    for response, label in label_of_response.items():
        expected = Verdict(label, label == item.answer)
        assert score_response(item, response) == expected, repr(response)


def test_choice_rule_matches_letters_texts_and_both() -> None:
    check_labels(
        make_item("choice", COLORS, "B"),
        {
            "B": "B",
            "B.": "B",
            "(B)": "B",
            "[B] dark blue": "B",
            "B) Dark blue.": "B",
            "B: because the sky is": "B",
            "B dark blue": "B",
            "dark  BLUE.": "B",
            "The answer is B.": "B",
            "Answer: (B)": "B",
            "So, the best option is dark blue": "B",
            "Option B": "B",
            "A green one": "C",
            "A": "A",
            "A. Dark blue": None,
            "A dark blue one": None,
            "A red car and a dark blue one": None,
            "D": None,
            "Blue": None,
            "b": None,
            "": None,
            "...": None,
        },
    )


def test_choice_rule_takes_the_true_one_of_equal_options() -> None:
    item = make_item("choice", {"A": "Red", "B": "red", "C": "blue"}, "B")
    assert score_response(item, "red").correct


def test_choice_rule_is_exact_for_options_without_words() -> None:
    check_labels(
        make_item("choice", {"A": "+", "B": "-"}, "B"),
        {"-": "B", "+": "A", "*": None, "B. -": "B", "B. +": None},
    )


def test_words_rule_compares_words() -> None:
    for response, correct in {"a RED ball.": True, "red ball": False, "": False}.items():
        verdict = score_response(make_item("words", {}, "A red ball"), response)
        assert verdict.correct == correct and (verdict.label is None) == (response == "")


def test_video_mme_and_longvideobench_take_the_first_capital() -> None:
    options = dict.fromkeys("ABCD", "x")
    for response, video_mme, longvideobench in (
        ("B", "B", "B"),
        ("The best answer is C.", "C", "C"),
        ("The answer: D", "D", "D"),
        ("Both of them", "B", "B"),
        ("Best answer: C", "B", "C"),
        ("E", None, "E"),
        ("I do not know, for there is no way to see it from here", None, None),
        ("", None, None),
    ):
        check_labels(make_item("video_mme", options, "B"), {response: video_mme})
        check_labels(make_item("longvideobench", options, "B"), {response: longvideobench})


def test_lvbench_takes_the_first_character_in_brackets() -> None:
    check_labels(
        make_item("lvbench", COLORS, "B"),
        {
            "B": "B",
            " (B) blue": "B",
            "B) blue": "B",
            "It is (B) blue": "B",
            "Blue": "B",
            "The answer is B": None,
            "": None,
        },
    )


def test_mlvu_takes_all_text_before_the_bracket() -> None:
    check_labels(
        make_item("mlvu", COLORS, "B"),
        {
            "B": "B",
            "B) blue": "B",
            "(B) blue": "B",
            "Best option:(B)": "B",
            "B.": None,
            "Blue": None,
            "": None,
        },
    )


def test_tempcompass_choice_takes_a_letter_at_the_start() -> None:
    check_labels(
        make_item("tempcompass_choice", COLORS, "B"),
        {
            "B": "B",
            "B</s>": "B",
            "B. no": "B",
            "B)": "B",
            "D": "D",
            "E": None,
            " B": None,
            "B, no": None,
            "(B)": None,
        },
    )


def test_tempcompass_yes_no_takes_how_the_response_begins() -> None:
    check_labels(
        make_item("tempcompass_yes_no", {"yes": "yes", "no": "no"}, "no"),
        {"Yes.": "yes", "no, never": "no", "Nothing": "no", "It is not": None, "": None},
    )


def test_tempcompass_caption_matching_is_exact() -> None:
    check_labels(
        make_item("tempcompass_matching", CAPTIONS, "Option 2"),
        {
            "Option 2: A man sleeps.": "Option 2",
            "Option 2": "Option 2",
            "Option 2.": "Option 2",
            "2": "Option 2",
            "A man runs.": "Option 1",
            "B) A man runs.</s>": "Option 1",
            "Option 2: A man runs.": None,
            "A man runs": None,
            "3": None,
            "": None,
        },
    )


def test_a_question_that_needs_a_judge_is_not_scored() -> None:
    with pytest.raises(ValueError, match="needs a judge"):
        score_response(make_item("needs_judge", {}, "A long story"), "A long story")


def test_every_rule_accepts_any_text() -> None:
    texts = ["", " ", ")", "(", "((", ") ", "\n", "</s>", "\0", "答案是 B"]
    for rule in RULES:
        item = make_item(rule, CAPTIONS if rule == "tempcompass_matching" else COLORS, "B")
        for response in (*texts, "ß" * 10_000, "A" * 10_000):
            assert score_response(item, response).label in {None, *"ABCDE", response.strip()}, rule


def test_loading_and_scoring_do_not_import_torch() -> None:
    modules = (
        "evaluation.load_benchmark",
        "evaluation.scoring",
        "evaluation.benchmarks.custom",
        "evaluation.report.report",
        "evaluation.report.compare",
        "evaluation.report.html",
        "evaluation.report.text",
        "media.subtitles",
    )
    imports = ", ".join(f"lit_hour.{module}" for module in modules)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
