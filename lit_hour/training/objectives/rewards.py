"""Reward functions that rules decide, without a judge; `REWARDS` is their table.

Each returns a number in [0, 1], or None for a question that it does not apply to. The settings
`training.grpo.rewards` hold the weight of each, by the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lit_hour.config.preference import RewardConfig
from lit_hour.text.answer_matching import is_correct, label_options, match_option, same_words
from lit_hour.text.time_intervals import best_iou, parse_intervals, true_intervals
from lit_hour.training.objectives.step import Answer
from lit_hour.types import Question

TOTAL = "reward"  # the weighted sum, in metrics


def right_option(question: Question, answer: Answer) -> float | None:
    """Return 1 for the right option of a multiple-choice question."""
    return float(is_correct(question, answer.text)) if question.options else None


def exact_word(question: Question, answer: Answer) -> float | None:
    """Return 1 for the words of the true answer to an open-ended question."""
    if question.options or true_intervals(question.answer):
        return None
    return float(same_words(question.answer, answer.text))


def temporal_iou(question: Question, answer: Answer) -> float | None:
    """Return the IoU of the first stated time interval with the best-fitting true one."""
    true = [] if question.options else true_intervals(question.answer)
    return best_iou(parse_intervals(answer.text), true) if true else None


def well_formed(question: Question, answer: Answer) -> float:
    """Return 1 for an answer that ends by itself and has the form that the question requires.

    This is one option, at least one time interval, or a single nonempty line.
    """
    text = answer.text.strip()
    if question.options:
        options = label_options(question.options)
        has_form = match_option(text, options, question.answer_letter) is not None
    elif true_intervals(question.answer):
        has_form = bool(parse_intervals(text))
    else:
        has_form = len(text.splitlines()) == 1
    return float(answer.has_ended and has_form)


REWARDS: dict[str, Callable[[Question, Answer], float | None]] = {
    "right_option": right_option,
    "exact_word": exact_word,
    "temporal_iou": temporal_iou,
    "format": well_formed,
}


SCORE_NAMES = (TOTAL, *REWARDS)


def score_answer(question: Question, answer: Answer, weights: RewardConfig) -> list[float]:
    """Return the `SCORE_NAMES` of an answer: the weighted sum, and the reward by each function.

    A function that does not apply or has no weight gives NaN, and nothing to the sum.
    """
    values = [
        function(question, answer) if getattr(weights, name) else None
        for name, function in REWARDS.items()
    ]
    total = sum(
        getattr(weights, name) * value
        for name, value in zip(REWARDS, values, strict=True)
        if value is not None
    )
    return [total, *(math.nan if value is None else value for value in values)]
