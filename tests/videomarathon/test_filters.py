"""Filters that need only the text of a question, and the examples in the prompts."""

from dataclasses import replace
from typing import Any

import pytest

from lit_hour.config.videomarathon import FilterConfig
from lit_hour.errors import QuestionError
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question
from lit_hour.videomarathon.filters import (
    find_given_away_by_length,
    find_given_away_by_wording,
    find_near_duplicates,
    find_repeated_options,
    parse_draft,
)
from lit_hour.videomarathon.task_prompts import TASK_PROMPTS

CONFIG = FilterConfig()
RECORD: dict[str, Any] = {
    "id": "a/1",
    "task": "object/object_recognition",
    "format": "multiple_choice",
    "question": "What lies on the table?",
    "options": ["a pear", "a fig", "a plum", "a lime"],
    "answer": "a fig",
    "evidence": [[3.0, 8.0]],
}


def choice(question: str, answer: str, *wrong: str) -> Question:
    return Question("a/1", "", "multiple_choice", question, answer, (answer, *wrong))


def open_ended(id: str, question: str, answer: str) -> Question:
    return Question(id, "", "open_ended", question, answer)


def test_parse_draft() -> None:
    question = parse_draft(RECORD, 60.0)
    assert (question.answer, question.evidence) == ("a fig", ((3.0, 8.0),))


def test_parse_draft_clips_evidence_to_the_video() -> None:
    assert parse_draft({**RECORD, "evidence": [[3.0, 60.0]]}, 59.4).evidence == ((3.0, 59.4),)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"options": ["a pear", "a fig", "a plum"]}, "3 options instead of 4"),
        ({"answer": "a melon"}, "not among the options"),
        ({"question": "  "}, "must be a nonempty text"),
        ({"question": "What is in <image>?"}, "A placeholder of visual input"),
        ({"options": ["a pear", "a fig", "a plum", "<video>"]}, "A placeholder of visual input"),
        ({"task": "object/object_smell"}, "unknown value 'object/object_smell'"),
        ({"evidence": []}, "no evidence"),
        ({"evidence": [[8.0, 3.0]]}, "evidence"),
        ({"evidence": [[-1.0, 3.0]]}, "evidence"),
        ({"evidence": [[3.0, 62.0]]}, "Evidence from 3 s to 62 s is outside of a video of 60.0 s"),
        ({"evidence": [[60.0, 60.5]]}, "Evidence from 60 s"),
        ({"evidence": [[float("nan"), 3.0]]}, "evidence"),
    ],
)
def test_parse_draft_refuses_invalid_records(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(QuestionError, match=reason):
        parse_draft({**RECORD, **change}, 60.0)


@pytest.mark.parametrize("other", ["The red car", "the red car.", "a red car", "Red car!"])
def test_repeated_options_are_found(other: str) -> None:
    reason = find_repeated_options(["blue", "the red car", "green", other])
    assert reason == f"{'the red car'!r} and {other!r} are the same"


def test_options_with_another_word_order_differ() -> None:
    options = ["spins, then grows", "grows, then spins", "spins", "the red car", "the car"]
    assert find_repeated_options(options) is None


@pytest.mark.parametrize(
    "options, is_dropped",
    [
        (("a very long answer that tells all", "short", "brief", "tiny"), True),
        (("no", "a long option as it is", "another long option", "one more long option"), True),
        (
            ("a very long answer that tells all", "short", "brief", "also a long one, but wrong"),
            False,
        ),
        (("turquoise", "red", "blue", "pink"), False),
        (("about 12 minutes", "about 3 minutes", "about 40 minutes", "about 25 minutes"), False),
    ],
)
def test_given_away_by_length(options: tuple[str, ...], is_dropped: bool) -> None:
    assert bool(find_given_away_by_length([choice("What?", *options)], CONFIG)) == is_dropped


def test_max_length_ratio() -> None:
    question = choice(
        "What?",
        "one that has a bit more to it",
        "one that is like",
        "one that is near",
        "one that is so",
    )
    assert bool(find_given_away_by_length([question], CONFIG))
    assert not find_given_away_by_length([question], replace(CONFIG, max_length_ratio=2.5))


@pytest.mark.parametrize(
    "question, options, is_dropped",
    [
        (
            "Why does the baker open the oven?",
            ("to check the oven heat", "to greet a guest", "to cool off", "to wait"),
            True,
        ),
        (
            "Why does the baker open the oven?",
            ("to see the oven", "to close the oven", "to cool off", "to wait"),
            False,
        ),
        (
            "Why does the baker open the oven?",
            ("to check the heat", "to greet a guest", "to cool off", "to wait"),
            False,
        ),
        ("What is seen?", ("a dog", "a cat", "a cow", "all of the above"), True),
        ("What is seen?", ("a dog", "a cat", "a cow", "None of these"), True),
        ("Which of these is seen: a dog or a cat?", ("a dog", "a cat"), False),
    ],
)
def test_given_away_by_wording(question: str, options: tuple[str, ...], is_dropped: bool) -> None:
    assert bool(find_given_away_by_wording([choice(question, *options)])) == is_dropped


def test_later_near_duplicate_is_rejected() -> None:
    questions = [
        open_ended(
            "a/1",
            "What does the woman with the green hat put into the large basket at the market?",
            "three lemons",
        ),
        open_ended("a/2", "Where does the man sit down?", "on a bench"),
        open_ended(
            "a/3",
            "What does the woman with the green hat put in the large basket at the market?",
            "Three lemons.",
        ),
        open_ended(
            "a/4",
            "What does the woman with the green hat put into the large basket at the market?",
            "a loaf of bread, sliced",
        ),
    ]
    rejections = find_near_duplicates(questions, replace(CONFIG, dedup_threshold=0.7))
    assert list(rejections) == ["a/3"]
    assert rejections["a/3"].endswith("% of its words are those of a/1")


def test_questions_with_other_numbers_or_format_are_not_duplicates() -> None:
    start = "What does the man in the long gray coat do in the hall at"
    questions = [
        open_ended("a/1", f"{start} 01:10?", "he waits"),
        open_ended("a/2", f"{start} 02:10?", "he waits"),
    ]
    questions.append(
        replace(choice(f"{start} 01:10?", "he waits", "he runs", "he sings", "he reads"), id="a/3")
    )
    assert find_near_duplicates(questions, CONFIG) == {}


def test_deduplication_is_deterministic() -> None:
    questions = [
        open_ended(
            f"a/{number}",
            f"Who is the {'tall ' * (number % 3)}one at the door of the old house?",
            "Ida",
        )
        for number in range(9)
    ]
    rejections = find_near_duplicates(questions, CONFIG)
    assert len(rejections) >= 6
    assert all(find_near_duplicates(questions, CONFIG) == rejections for _ in range(5))


# Examples in the prompts


def test_every_task_has_a_prompt() -> None:
    assert list(TASK_PROMPTS) == list(TASK_OF_KEY)


def test_examples_in_prompts_pass_every_filter() -> None:
    for task, prompt in TASK_PROMPTS.items():
        record = {**RECORD, "task": task, "question": prompt.question, "answer": prompt.answer}
        question = parse_draft({**record, "options": [prompt.answer, *prompt.wrong_options]}, 60.0)
        assert find_repeated_options(question.options) is None, task
        assert find_given_away_by_length([question], CONFIG) == {}, task
        assert find_given_away_by_wording([question]) == {}, task
