"""Each reward function applies to the questions that it is for, and scores their answers."""

import math

import pytest

from lit_hour.config.preference import RewardConfig
from lit_hour.training.objectives.rewards import REWARDS, SCORE_NAMES, score_answer
from lit_hour.training.objectives.step import Answer
from lit_hour.types import Question

COLOR = Question("1", "", "open_ended", "Which color?", "dark red")
OPTION = Question("2", "", "multiple_choice", "Which?", "red", ("blue", "red"))
TIME = Question("3", "", "open_ended", "When?", "10.0 s to 20.0 s")
APPLY = {  # to each question, besides `format`
    "exact_word": COLOR,
    "right_option": OPTION,
    "temporal_iou": TIME,
}


@pytest.mark.parametrize(
    ("question", "text", "reward", "has_form"),
    [
        (COLOR, "Dark red.", 1.0, 1.0),
        (COLOR, "red", 0.0, 1.0),
        (COLOR, "", 0.0, 0.0),
        (COLOR, "dark red\nIt is dark red", 0.0, 0.0),
        (OPTION, "red", 1.0, 1.0),
        (OPTION, "B", 1.0, 1.0),
        (OPTION, "blue", 0.0, 1.0),
        (OPTION, "A or B", 0.0, 0.0),
        (OPTION, "green", 0.0, 0.0),
        (TIME, "10.0 s to 20.0 s", 1.0, 1.0),
        (TIME, "15 s to 20 s", 0.5, 1.0),
        (TIME, "30 s to 40 s", 0.0, 1.0),
        (TIME, "later", 0.0, 0.0),
    ],
)
def test_reward_of_an_answer(question: Question, text: str, reward: float, has_form: float) -> None:
    weights = RewardConfig(right_option=1.0, exact_word=2.0, temporal_iou=4.0, format=0.5)
    scores = dict(
        zip(SCORE_NAMES, score_answer(question, Answer(text, True), weights), strict=True)
    )
    (name,) = (name for name, applies in APPLY.items() if applies is question)
    assert scores[name] == reward and scores["format"] == has_form
    assert scores["reward"] == getattr(weights, name) * reward + 0.5 * has_form
    assert {other for other, score in scores.items() if math.isnan(score)} == APPLY.keys() - {name}


def test_answer_without_an_end_has_no_form() -> None:
    assert REWARDS["format"](COLOR, Answer("dark red", has_ended=False)) == 0
    assert REWARDS["exact_word"](COLOR, Answer("dark red", has_ended=False)) == 1


def test_function_without_weight_is_left_out() -> None:
    weights = RewardConfig(exact_word=0, format=0)
    scores = score_answer(COLOR, Answer("dark red", True), weights)
    assert scores[0] == 0 and all(map(math.isnan, scores[1:]))


def test_each_function_has_a_weight() -> None:
    assert REWARDS.keys() == vars(RewardConfig()).keys()
