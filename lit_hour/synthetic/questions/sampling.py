"""Facts in, questions out, of which nobody can guess the answer from their words.

A multiple-choice question is made from a *pool*: facts of one wording, whose answers are of one kind. Up to four facts with
different answers are drawn, one of them is asked about, and the answers of the others are the wrong options. Whatever the
answers are, each is as likely as the others to be the right one, and all are true of something in the same video.
A fact may bring its own options instead, if these are as even: orders of the same things, or all pairs of two of one
kind and two of another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lit_hour.synthetic.story import Interval

NUM_OPTIONS = 4
LEAST_RATIO = 1.25  # of two durations that are options of the same question

Pool = Sequence["Fact"]


@dataclass(frozen=True)
class Fact:
    """Something true about a story, as a question and its one answer.

    Attributes:
        evidence: where the answer is seen, in seconds.
        rules_out: answers that the words of the question would give away as wrong.
        amount: what the answer measures, in seconds; 0 when it measures nothing.
        options: the answer among others, when the fact brings its own.
    """

    question: str
    answer: str
    evidence: tuple[Interval, ...]
    rules_out: tuple[str, ...] = ()
    amount: float = 0.0
    options: tuple[str, ...] = ()

    def differs(self, other: Fact) -> bool:
        """Whether the answers of the two can be options of one question."""
        if (
            self.answer == other.answer
            or self.answer in other.rules_out
            or other.answer in self.rules_out
        ):
            return False
        low, high = sorted((self.amount, other.amount))
        return high == 0 or high >= LEAST_RATIO * low


def draw_choice(pool: Pool, random: Random) -> tuple[Fact, tuple[str, ...]] | None:
    """A fact to ask about and its options in random order, or None if the pool has not two answers that can be told apart."""
    if pool and pool[0].options:
        asked = random.choice(pool)
        return asked, tuple(random.sample(asked.options, len(asked.options)))
    by_answer: dict[str, list[Fact]] = defaultdict(list)
    for fact in pool:
        by_answer[fact.answer].append(fact)
    chosen: list[Fact] = []
    for answer in random.sample(list(by_answer), len(by_answer)):
        fact = random.choice(by_answer[answer])
        if all(fact.differs(other) for other in chosen):
            chosen.append(fact)
        if len(chosen) == NUM_OPTIONS:
            break
    if len(chosen) < 2:
        return None
    return random.choice(chosen), tuple(fact.answer for fact in chosen)


def draw_orders(items: Sequence[str], random: Random) -> tuple[str, ...]:
    """The right order `a, then b, then c` first, and up to three others, each as likely as any."""
    orders = {", then ".join(items): None}
    while len(orders) < min(NUM_OPTIONS, _factorial(len(items))):
        orders[", then ".join(random.sample(items, len(items)))] = None
    return tuple(orders)


def _factorial(number: int) -> int:
    return 1 if number < 2 else number * _factorial(number - 1)
