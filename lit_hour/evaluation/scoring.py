"""Right and wrong answers in, how sure a score or a difference of two scores is out.

All questions of a video go together: they share what the model saw of it, so drawing single questions would seem too sure.


A question and what a model said in, the option that it chose out, by the rule that the benchmark publishes.

Every rule answers one question: which label did the model choose? None means that the rule finds none: such an answer is
unmatched, and wrong. Where the published code would ask a language model instead, the report lists it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from lit_hour.evaluation.item import Item, Rule

NUM_RESAMPLES = 2000
COVERED_PERCENT = 95
Interval = tuple[float, float]


def bootstrap_interval(
    values: Sequence[float], videos: Sequence[str], seed: int = 0
) -> Interval | None:
    """The interval in which the mean lies in 95% of the sets of videos that are drawn from these, with replacement.

    Args:
        values: one for each question: 1 for right and 0 for wrong, or the difference of two models.
        videos: the video of each question.

    Returns:
        The low and the high end; None for fewer than two videos, which say nothing of others.
    """
    numbers = {video: number for number, video in enumerate(dict.fromkeys(videos))}
    if len(numbers) < 2:
        return None
    places = np.array([numbers[video] for video in videos])  # (questions,)
    sums = np.bincount(places, weights=np.asarray(values, dtype=float))  # (videos,)
    counts = np.bincount(places)  # (videos,)
    generator = np.random.default_rng(seed)
    shares = np.full(len(numbers), 1 / len(numbers))  # (videos,)
    draws = generator.multinomial(
        len(numbers), shares, size=NUM_RESAMPLES
    )  # (resamples, videos) how often each is drawn
    means = (draws @ sums) / (draws @ counts)  # (resamples,)
    rest = (100 - COVERED_PERCENT) / 2
    low, high = np.percentile(means, [rest, 100 - rest])
    return float(low), float(high)


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test: how likely counts so unequal are, if neither model is better.

    Args:
        num_only_first: questions that only the first model answers rightly.
        num_only_second: questions that only the second does.
    """
    num_different = num_only_first + num_only_second
    tail = sum(
        comb(num_different, count) for count in range(min(num_only_first, num_only_second) + 1)
    )
    return min(1.0, 2 * tail / 2**num_different)


INTRODUCTIONS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
LONGVIDEOBENCH_INTRODUCTIONS = (
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)

_INTRODUCTION = re.compile(
    r"\A(?:so,? |therefore,? )?(?:the |my )?(?:best |correct |right )?(?:answer|option)(?: is)?[:\s]\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[(\[]?([A-Z])(?:[.):\]]+|\Z)")
_LETTER_BEFORE_WORDS = re.compile(r"([A-Z])[\s,-]+")


@dataclass(frozen=True)
class Verdict:
    """What was understood of an answer: the label chosen, None where none was found, and whether it is the true one."""

    label: str | None
    correct: bool


def score_answer(item: Item, said: str) -> Verdict:
    """Read an answer by the rule of its benchmark.

    Raises:
        ValueError: the benchmark leaves this question to a language model as the judge.
    """
    if item.rule == "needs_judge":
        raise ValueError(f"{item.id} has no rule: it needs a judge")
    label = RULES[item.rule](item, said)
    return Verdict(label, label == item.answer)


def match_choice(item: Item, said: str) -> str | None:
    """Ours, where nobody published a rule: a letter, an option in words, or both if they agree.

    "B", "(B) red", "The answer is B." and "red" are understood; "A red car" is no letter, and "B. red" chooses nothing where
    red is another option. Case, punctuation and spaces do not count in words.
    """
    whole = said.strip()
    text = _INTRODUCTION.sub("", whole, count=1)
    if in_words := _named(item, whole) or _named(item, text):
        return item.answer if item.answer in in_words else in_words[0]
    letter = _LETTER.match(text) or _LETTER_BEFORE_WORDS.match(text)
    if letter is None or letter[1] not in item.options:
        return None
    rest = text[letter.end() :]
    named = _named(item, rest)
    is_bare = letter.re is _LETTER and not named
    return letter[1] if is_bare or letter[1] in named else None


def match_words(item: Item, said: str) -> str | None:
    """Ours, for a free answer: the words of the true one, in order. Anything else is understood as itself."""
    return item.answer if _are_same(item.answer, said) else said.strip() or None


def match_first_letter(said: str, letters: str, introductions: Iterable[str]) -> str | None:
    """The first of some capitals anywhere in the answer, after introductions. "Both" is B by this rule."""
    for introduction in introductions:
        said = said.replace(introduction, "")
    found = re.search(f"[{letters}]", said)
    return found[0] if found else None


def match_video_mme(_: Item, said: str) -> str | None:
    """Video-MME: the first of A to D. Its code names more introductions, which a missing comma makes one."""
    return match_first_letter(said, "ABCD", INTRODUCTIONS)


def match_longvideobench(_: Item, said: str) -> str | None:
    """LongVideoBench, as its authors wrote it for lmms-eval: the first of A to E."""
    return match_first_letter(said, "ABCDE", (*INTRODUCTIONS, *LONGVIDEOBENCH_INTRODUCTIONS))


def match_lvbench(item: Item, said: str) -> str | None:
    """LVBench: what stands in the first brackets or before the first ")", of that the first character."""
    text = said.strip().split(")")[0].strip()
    if "(" in text:
        text = text.split("(")[1].strip()
    label = text[:1]
    return label if label in item.options else None


def match_mlvu(item: Item, said: str) -> str | None:
    """MLVU: all that stands before the first ")" is the letter.

    The published code begins the answer with "Best option:(" itself; where a model says that on its own, it does not count.
    """
    text = said.strip().removeprefix("Best option:").strip().removeprefix("(")
    label = text.split(")")[0]
    return label if label in item.options else None


def match_tempcompass_choice(item: Item, said: str) -> str | None:
    """TempCompass, multiple choice: the letter alone, or at the start with "." or ")" behind it, among A to D."""
    letter = re.match(r"([ABCD])(?:[.)]|\Z)", _without_end(said))
    return letter[1] if letter else None


def match_tempcompass_yes_no(item: Item, said: str) -> str | None:
    """TempCompass, yes or no: how the answer begins; "Nothing" is a no by this rule, which is theirs."""
    text = _without_end(said).lower()
    return next((label for label in ("yes", "no") if text.startswith(label)), None)


def match_caption(item: Item, said: str) -> str | None:
    """TempCompass, caption matching: exactly an option's line, its label, the letter or number in that, or its sentence."""
    text = _without_end(said).strip()
    after_bracket = text.split(") ")[1] if ") " in text else text
    chosen = [
        label
        for label, words in item.options.items()
        if text == f"{label}: {words}"
        or words in (text, after_bracket)
        or text.replace(".", "") in (label, label.split()[1])
    ]
    return item.answer if item.answer in chosen else chosen[0] if chosen else None


def _without_end(said: str) -> str:
    return said.replace("</s>", "")


def _named(item: Item, text: str) -> list[str]:
    """The labels of the options that a text repeats; several where options are alike."""
    return [label for label, words in item.options.items() if _are_same(words, text)]


def _are_same(first: str, second: str) -> bool:
    words = re.findall(r"\w+", first.casefold())
    return first.strip() == second.strip() or (
        bool(words) and words == re.findall(r"\w+", second.casefold())
    )


RULES: Mapping[Rule, Callable[[Item, str], str | None]] = {
    "choice": match_choice,
    "words": match_words,
    "video_mme": match_video_mme,
    "longvideobench": match_longvideobench,
    "lvbench": match_lvbench,
    "mlvu": match_mlvu,
    "tempcompass_choice": match_tempcompass_choice,
    "tempcompass_yes_no": match_tempcompass_yes_no,
    "tempcompass_matching": match_caption,
}
