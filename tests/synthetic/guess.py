"""A text-only baseline: it never sees a video, and has only the words of questions and options to guess from."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_hour.types import Question

NUM_FEATURES, NUM_STEPS = 4096, 40
FEW_WORDS = 14  # of a question, up to which each of them is paired with each word of an option
UNIT_SECONDS = {"hour": 3600, "minute": 60, "second": 1}


def features(question: Question) -> list[list[str]]:
    """Of each option: its words, alone and with those of the question, its place, its size and its likeness to the others."""
    asked = set(re.findall("[a-z]+", question.question.lower()))
    words = [set(re.findall(r"\w+", option.lower())) for option in question.options]
    likeness = [sum(len(one & other) for other in words) for one in words]
    amounts = [amount(option) for option in question.options]
    found = []
    for place, option in enumerate(question.options):
        named = [
            f"option {option}",
            f"place {place}",
            f"named first {question.question.find(option)}",
            *words[place],
        ]
        named.append(f"like the others {sorted(likeness).index(likeness[place])}")
        named.append(f"so large {sorted(amounts).index(amounts[place])} of {len(amounts)}")
        if len(asked) <= FEW_WORDS:
            named += [f"{one} {other}" for one in words[place] for other in asked]
        found.append(named)
    return found


def amount(option: str) -> float:
    """The duration, time or number that an option names; 0 for none."""
    if durations := re.findall(r"(\d+) (hour|minute|second)", option):
        return sum(int(number) * UNIT_SECONDS[unit] for number, unit in durations)
    if clock := re.search(r"[\d:]*\d\d:\d\d", option):
        return sum(
            int(part) * 60**power for power, part in enumerate(reversed(clock[0].split(":")))
        )
    return float(option) if option.isdigit() else 0.0


class Guesser:
    """Logistic regression over the options of each question, and the most frequent answers."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.num_right = Counter(question.answer for question in questions)
        inputs, owner, is_right = self._encode(questions)
        weights = torch.zeros(NUM_FEATURES, requires_grad=True)  # (features,)
        optimizer = torch.optim.Adam([weights], lr=0.05)
        for _ in range(NUM_STEPS):
            scores = torch.mv(inputs, weights)  # (options,)
            totals = torch.zeros(len(questions)).index_add(0, owner, scores.exp())  # (questions,)
            loss = (totals.log() - scores[is_right]).mean() + 2e-3 * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.weights = weights.detach()

    def read(self, questions: Sequence[Question]) -> list[str]:
        """The options that the words speak for."""
        scores = torch.mv(self._encode(questions)[0], self.weights).tolist()
        guesses = []
        for question in questions:
            own, scores = scores[: len(question.options)], scores[len(question.options) :]
            guesses.append(question.options[own.index(max(own))])
        return guesses

    def remember(self, questions: Sequence[Question]) -> list[str]:
        """The options that were right most often; the first one if none ever was."""
        return [
            max(question.options, key=lambda option: self.num_right[option])
            for question in questions
        ]

    def _encode(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor, Tensor]:
        """Features `(options, features)` of all options; of each `(options,)` its question, and whether it is right."""
        places: list[tuple[int, int]] = []
        owner, is_right = [], []
        for number, question in enumerate(questions):
            for option, named in zip(question.options, features(question), strict=True):
                places += [(len(owner), zlib.crc32(name.encode()) % NUM_FEATURES) for name in named]
                owner.append(number)
                is_right.append(option == question.answer)
        indices = torch.tensor(places).T  # (2, entries)
        size = (len(owner), NUM_FEATURES)
        inputs = torch.sparse_coo_tensor(
            indices, torch.ones(len(places)), size, check_invariants=True
        )
        return inputs.coalesce(), torch.tensor(owner), torch.tensor(is_right)


def deviations_above_chance(questions: Sequence[Question], guesses: Sequence[str]) -> float:
    """By how many standard deviations more answers are right than a coin would get right, whatever the options' number."""
    chances = [1 / len(question.options) for question in questions]
    num_right = sum(
        question.answer == guess for question, guess in zip(questions, guesses, strict=True)
    )
    return (num_right - sum(chances)) / math.sqrt(sum(chance * (1 - chance) for chance in chances))
