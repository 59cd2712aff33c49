"""Score responses by each benchmark's rule, and estimate how certain an accuracy is.

`score_response` finds the label that a response chooses; None means that the rule finds none, and
such a response is "unmatched" and counts as wrong. (Some published codes send unmatched responses
to a language model as the judge; the report lists them.)

`bootstrap_interval` and `mcnemar` treat the questions of a video as one unit: they share what the
model saw of it, and resampling single questions would give intervals that are too narrow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf

import numpy as np
from numpy.typing import NDArray

from lit_hour.evaluation.item import Item, Rule
from lit_hour.text.answer_matching import match_option, same_words
from lit_hour.text.time_intervals import MIN_IOU, best_iou, format_intervals, parse_intervals

NUM_RESAMPLES = 2000
COVERAGE_PERCENT = 95
Interval = tuple[float, float]

LEAD_INS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
LONGVIDEOBENCH_LEAD_INS = (
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


@dataclass(frozen=True)
class Verdict:
    """The label that a response chooses, None if there is none, and whether it is the true one."""

    label: str | None
    correct: bool


@dataclass(frozen=True)
class Judgment:
    """Verdict or grades of a judge for a response.

    Attributes:
        scores: its grades by name; empty if it only decides whether the response is correct.
        correct: its verdict; None if it gives grades.
        text: its whole answer.
    """

    scores: Mapping[str, float]
    correct: bool | None
    text: str


def score_response(item: Item, response: str) -> Verdict:
    """Score a response by the rule of its benchmark.

    Raises:
        ValueError: the benchmark has a language model judge this question.
    """
    if item.rule == "needs_judge":
        raise ValueError(f"Question {item.id} needs a judge; no rule can score it.")
    label = RULES[item.rule](item, response)
    if item.rule == "intervals":
        iou = best_iou(stated_intervals(item, response), item.intervals)
        return Verdict(label, iou >= MIN_IOU)
    return Verdict(label, label == item.answer)


def bootstrap_interval(
    values: Sequence[float], videos: Sequence[str], seed: int = 0, tasks: Sequence[str] = ()
) -> Interval | None:
    """Return the 95% percentile bootstrap interval of a mean, resampling videos.

    Args:
        values: one per question: 1 for correct and 0 for wrong, or the difference of two models.
        videos: the video of each question.
        seed: of the resampling.
        tasks: the task of each question for the unweighted mean over tasks, whose videos are
            resampled task by task; empty for the mean over all questions.

    Returns:
        The low and the high end; None if a task, or all questions, have fewer than two videos.
    """
    generator = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, task in enumerate(tasks or [""] * len(values)):
        members.setdefault(task, []).append(index)
    means = [
        _resampled_means([values[i] for i in group], [videos[i] for i in group], generator)
        for group in members.values()
    ]
    known = [mean for mean in means if mean is not None]
    if not known or len(known) < len(means):
        return None
    tail = (100 - COVERAGE_PERCENT) / 2
    low, high = np.percentile(np.mean(known, axis=0), [tail, 100 - tail])
    return float(low), float(high)


def _resampled_means(
    values: Sequence[float], videos: Sequence[str], generator: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return the mean of each resample of the videos, `(resamples,)`; None for one video."""
    index_of_video = {video: index for index, video in enumerate(dict.fromkeys(videos))}
    num_videos = len(index_of_video)
    if num_videos < 2:
        return None
    indices = np.array([index_of_video[video] for video in videos])  # (questions,)
    sums = np.bincount(indices, weights=np.asarray(values, dtype=float))  # (videos,)
    counts = np.bincount(indices)  # (videos,)
    probabilities = np.full(num_videos, 1 / num_videos)  # (videos,)
    draws = generator.multinomial(num_videos, probabilities, NUM_RESAMPLES)  # (resamples, videos)
    means: NDArray[np.float64] = (draws @ sums) / (draws @ counts)  # (resamples,)
    return means


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        num_only_first: questions that only the first model answers correctly.
        num_only_second: questions that only the second model answers correctly.
    """
    num_different = num_only_first + num_only_second
    tail = sum(
        comb(num_different, count) for count in range(min(num_only_first, num_only_second) + 1)
    )
    return min(1.0, 2 * tail / 2**num_different)


def match_choice(item: Item, response: str) -> str | None:
    """Match by the project's own rule, for benchmarks that publish none; training uses it too."""
    return match_option(response, item.options, item.answer)


def match_words(item: Item, response: str) -> str | None:
    """Match the words of an open-ended answer; any other response stands for itself."""
    return item.answer if same_words(item.answer, response) else response.strip() or None


def match_intervals(item: Item, response: str) -> str | None:
    """Return the intervals that a response states in the strict format; None if there is none."""
    return format_intervals(stated_intervals(item, response)) or None


def stated_intervals(item: Item, response: str) -> list[Interval]:
    """Return the intervals that a response states inside the video, if its duration is known."""
    return parse_intervals(response, item.duration_seconds or inf)


def match_first_letter(response: str, letters: str, lead_ins: Iterable[str]) -> str | None:
    """Find the first of some capitals after removing lead-ins. "Both" is B by this rule."""
    for lead_in in lead_ins:
        response = response.replace(lead_in, "")
    match = re.search(f"[{letters}]", response)
    return match[0] if match else None


def match_video_mme(_: Item, response: str) -> str | None:
    """Match by Video-MME's rule: the first of A to D.

    The published code lists further lead-ins, but a missing comma joins them into one that never
    occurs.
    """
    return match_first_letter(response, "ABCD", LEAD_INS)


def match_longvideobench(_: Item, response: str) -> str | None:
    """Match by LongVideoBench's rule, written by its authors for lmms-eval: the first of A to E."""
    return match_first_letter(response, "ABCDE", (*LEAD_INS, *LONGVIDEOBENCH_LEAD_INS))


def match_lvbench(item: Item, response: str) -> str | None:
    """Match by LVBench's rule: the first character in brackets or before the first ")"."""
    text = response.strip().split(")")[0].strip()
    if "(" in text:
        text = text.split("(")[1].strip()
    label = text[:1]
    return label if label in item.options else None


def match_mlvu(item: Item, response: str) -> str | None:
    """Match by MLVU's rule: all text before the first ")" is the letter.

    The published code begins the response with "Best option:(" itself; where a model generates that
    text, it is removed.
    """
    text = response.strip().removeprefix("Best option:").strip().removeprefix("(")
    label = text.split(")")[0]
    return label if label in item.options else None


def match_mlvu_lmms_eval(_: Item, response: str) -> str | None:
    """Match by the rule of lmms-eval's task mlvu, which is Video-MME's: the first of A to D."""
    return match_first_letter(response, "ABCD", LEAD_INS)


def match_tempcompass_choice(_: Item, response: str) -> str | None:
    """Match by TempCompass' rule for multiple choice: A to D first, alone or before "." or ")"."""
    letter = re.match(r"([ABCD])(?:[.)]|\Z)", _without_end(response))
    return letter[1] if letter else None


def match_tempcompass_yes_no(_: Item, response: str) -> str | None:
    """Match by TempCompass' rule for yes or no: how the response begins, so "Nothing" is a no."""
    text = _without_end(response).lower()
    return next((label for label in ("yes", "no") if text.startswith(label)), None)


def match_caption(item: Item, response: str) -> str | None:
    """Match by TempCompass' rule for caption matching.

    A response chooses an option by its line, its label, the letter or number in the label, or its
    sentence, each without any other text.
    """
    text = _without_end(response).strip()
    after_bracket = text.split(") ")[1] if ") " in text else text
    chosen = [
        label
        for label, caption in item.options.items()
        if text == f"{label}: {caption}"
        or caption in (text, after_bracket)
        or text.replace(".", "") in (label, label.split()[1])
    ]
    return item.answer if item.answer in chosen else chosen[0] if chosen else None


def _without_end(response: str) -> str:
    return response.replace("</s>", "")


RULES: Mapping[Rule, Callable[[Item, str], str | None]] = {
    "choice": match_choice,
    "words": match_words,
    "intervals": match_intervals,
    "video_mme": match_video_mme,
    "longvideobench": match_longvideobench,
    "lvbench": match_lvbench,
    "mlvu": match_mlvu,
    "mlvu_lmms_eval": match_mlvu_lmms_eval,
    "tempcompass_choice": match_tempcompass_choice,
    "tempcompass_yes_no": match_tempcompass_yes_no,
    "tempcompass_matching": match_caption,
}
