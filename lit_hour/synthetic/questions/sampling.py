"""Draw questions from facts so that their wording never gives the answer away.

A multiple-choice question is made from a pool: facts of one wording, whose answers are of one kind.
Up to four facts with different answers are drawn, one of them becomes the question, and the answers
of the others are the wrong options. Each option is therefore equally likely to be correct, whatever
the distribution of answers, and each is true of something in the same video.

A fact may bring its own options if these are as balanced: orders of the same items, or all pairs of
two items of one kind and two of another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from random import Random

from lit_hour.synthetic.story import Interval

NUM_OPTIONS = 4
LEAST_RATIO = 1.25  # of two durations that are options of one question

Pool = Sequence["Fact"]


@dataclass(frozen=True)
class Fact:
    """A question about a story with its only correct answer.

    Attributes:
        evidence: intervals that show the answer, in seconds.
        rules_out: answers that the wording of the question excludes.
        amount: the quantity that the answer states, in seconds; 0 if it states none.
        options: the correct answer and wrong ones, if the fact brings its own.
    """

    question: str
    answer: str
    evidence: tuple[Interval, ...]
    rules_out: tuple[str, ...] = ()
    amount: float = 0.0
    options: tuple[str, ...] = ()

    def is_distinct_from(self, other: Fact) -> bool:
        """Return whether the answers of the two facts can be options of one question."""
        if self.answer == other.answer:
            return False
        if self.answer in other.rules_out or other.answer in self.rules_out:
            return False
        low, high = sorted((self.amount, other.amount))
        return high == 0 or high >= LEAST_RATIO * low


def draw_choice(pool: Pool, random: Random) -> tuple[Fact, tuple[str, ...]] | None:
    """Draw a fact and its options in random order.

    Returns:
        None if the pool has no two distinct answers.
    """
    if pool and pool[0].options:
        fact = random.choice(pool)
        return fact, tuple(random.sample(fact.options, len(fact.options)))
    facts_by_answer: dict[str, list[Fact]] = defaultdict(list)
    for fact in pool:
        facts_by_answer[fact.answer].append(fact)
    chosen: list[Fact] = []
    for answer in random.sample(list(facts_by_answer), len(facts_by_answer)):
        fact = random.choice(facts_by_answer[answer])
        if all(fact.is_distinct_from(other) for other in chosen):
            chosen.append(fact)
        if len(chosen) == NUM_OPTIONS:
            break
    if len(chosen) < 2:
        return None
    return random.choice(chosen), tuple(fact.answer for fact in chosen)


def draw_orders(items: Sequence[str], random: Random) -> tuple[str, ...]:
    """Return the correct order `a, then b, then c` and up to three others, drawn uniformly."""
    orders = {", then ".join(items): None}
    while len(orders) < min(NUM_OPTIONS, factorial(len(items))):
        orders[", then ".join(random.sample(items, len(items)))] = None
    return tuple(orders)
