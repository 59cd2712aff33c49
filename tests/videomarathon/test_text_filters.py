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

SETTINGS = FilterConfig()
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


def openly(id: str, question: str, answer: str) -> Question:
    return Question(id, "", "open_ended", question, answer)


def test_a_good_record_is_read() -> None:
    question = parse_draft(RECORD, 60.0)
    assert (question.answer, question.evidence) == ("a fig", ((3.0, 8.0),))


def test_evidence_that_ends_a_little_late_is_cut_at_the_end() -> None:
    assert parse_draft({**RECORD, "evidence": [[3.0, 60.0]]}, 59.4).evidence == ((3.0, 59.4),)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"options": ["a pear", "a fig", "a plum"]}, "3 options in place of 4"),
        ({"answer": "a melon"}, "not among the options"),
        ({"question": "  "}, "not empty"),
        ({"question": "What is in <image>?"}, "a mark for pictures"),
        ({"options": ["a pear", "a fig", "a plum", "<video>"]}, "a mark for pictures"),
        ({"task": "object/object_smell"}, "there is no 'object/object_smell'"),
        ({"evidence": []}, "no evidence"),
        ({"evidence": [[8.0, 3.0]]}, "evidence"),
        ({"evidence": [[-1.0, 3.0]]}, "evidence"),
        ({"evidence": [[3.0, 62.0]]}, "evidence from 3 s to 62 s in a video of 60.0 s"),
        ({"evidence": [[60.0, 60.5]]}, "evidence from 60 s"),
        ({"evidence": [[float("nan"), 3.0]]}, "evidence"),
    ],
)
def test_a_wrong_record_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(QuestionError, match=reason):
        parse_draft({**RECORD, **change}, 60.0)


@pytest.mark.parametrize("other", ["The red car", "the red car.", "a red car", "Red car!"])
def test_options_that_say_the_same_are_found(other: str) -> None:
    assert (
        find_repeated_options(["blue", "the red car", "green", other])
        == f"{'the red car'!r} and {other!r} are the same"
    )


def test_options_that_differ_in_their_order_are_not_the_same() -> None:
    assert (
        find_repeated_options(
            ["spins, then grows", "grows, then spins", "spins", "the red car", "the car"]
        )
        is None
    )


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
def test_an_answer_of_another_length_gives_itself_away(
    options: tuple[str, ...], is_dropped: bool
) -> None:
    assert bool(find_given_away_by_length([choice("What?", *options)], SETTINGS)) == is_dropped


def test_the_ratio_of_lengths_is_a_setting() -> None:
    question = choice(
        "What?",
        "one that has a bit more to it",
        "one that is like",
        "one that is near",
        "one that is so",
    )
    assert bool(find_given_away_by_length([question], SETTINGS))
    assert not find_given_away_by_length([question], replace(SETTINGS, max_length_ratio=2.5))


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
def test_an_answer_in_the_words_of_the_question_gives_itself_away(
    question: str, options: tuple[str, ...], is_dropped: bool
) -> None:
    assert bool(find_given_away_by_wording([choice(question, *options)], SETTINGS)) == is_dropped


def test_the_later_of_two_questions_that_are_almost_the_same_is_dropped() -> None:
    questions = [
        openly(
            "a/1",
            "What does the woman with the green hat put into the large basket at the market?",
            "three lemons",
        ),
        openly("a/2", "Where does the man sit down?", "on a bench"),
        openly(
            "a/3",
            "What does the woman with the green hat put in the large basket at the market?",
            "Three lemons.",
        ),
        openly(
            "a/4",
            "What does the woman with the green hat put into the large basket at the market?",
            "a loaf of bread, sliced",
        ),
    ]
    faults = find_near_duplicates(questions, replace(SETTINGS, dedup_threshold=0.7))
    assert list(faults) == ["a/3"]
    assert faults["a/3"].endswith("% of its words are those of a/1")


def test_questions_about_other_times_or_in_another_format_are_not_the_same() -> None:
    words = "What does the man in the long grey coat do in the hall at"
    questions = [
        openly("a/1", f"{words} 01:10?", "he waits"),
        openly("a/2", f"{words} 02:10?", "he waits"),
    ]
    questions.append(
        replace(choice(f"{words} 01:10?", "he waits", "he runs", "he sings", "he reads"), id="a/3")
    )
    assert find_near_duplicates(questions, SETTINGS) == {}


def test_the_same_drafts_lose_the_same_questions() -> None:
    questions = [
        openly(
            f"a/{number}",
            f"Who is the {'tall ' * (number % 3)}one at the door of the old house?",
            "Ida",
        )
        for number in range(9)
    ]
    faults = find_near_duplicates(questions, SETTINGS)
    assert len(faults) >= 6
    assert all(find_near_duplicates(questions, SETTINGS) == faults for _ in range(5))


# The examples that the teacher is shown


def test_every_task_has_a_guide() -> None:
    assert list(TASK_PROMPTS) == list(TASK_OF_KEY)


@pytest.mark.parametrize("task", TASK_PROMPTS)
def test_an_example_passes_every_filter(task: str) -> None:
    guide = TASK_PROMPTS[task]
    record = {**RECORD, "task": task, "question": guide.question, "answer": guide.answer}
    question = parse_draft({**record, "options": [guide.answer, *guide.wrong_options]}, 60.0)
    assert find_repeated_options(question.options) is None
    assert find_given_away_by_length([question], SETTINGS) == {}
    assert find_given_away_by_wording([question], SETTINGS) == {}
