"""Text-only baseline: guess the answer of a question from its words and its options alone."""

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
MAX_PAIRED_WORDS = 14  # in a question, for pairing each of them with each word of an option
UNIT_SECONDS = {"hour": 3600, "minute": 60, "second": 1}


def option_features(question: Question) -> list[list[str]]:
    """Return the features of each option.

    They are its words, alone and paired with the words of the question, its index, its rank by the
    amount that it states, and its rank by similarity to the other options.
    """
    question_words = set(re.findall("[a-z]+", question.question.lower()))
    option_words = [set(re.findall(r"\w+", option.lower())) for option in question.options]
    similarities = [sum(len(one & other) for other in option_words) for one in option_words]
    amounts = [stated_amount(option) for option in question.options]
    all_features = []
    for index, option in enumerate(question.options):
        features = [
            f"option {option}",
            f"index {index}",
            f"position in question {question.question.find(option)}",
            *option_words[index],
            f"similarity rank {sorted(similarities).index(similarities[index])}",
            f"amount rank {sorted(amounts).index(amounts[index])} of {len(amounts)}",
        ]
        if len(question_words) <= MAX_PAIRED_WORDS:
            features += [
                f"{word} {other}" for word in option_words[index] for other in question_words
            ]
        all_features.append(features)
    return all_features


def stated_amount(option: str) -> float:
    """Return the duration, time or number in an option; 0 if there is none."""
    if durations := re.findall(r"(\d+) (hour|minute|second)", option):
        return sum(int(number) * UNIT_SECONDS[unit] for number, unit in durations)
    if timestamp := re.search(r"[\d:]*\d\d:\d\d", option):
        parts = reversed(timestamp[0].split(":"))
        return sum(int(part) * 60**power for power, part in enumerate(parts))
    return float(option) if option.isdigit() else 0.0


class TextOnlyBaseline:
    """Two guesses: logistic regression over option features, and the most frequent answer."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.answer_counts = Counter(question.answer for question in questions)
        inputs, question_index, is_correct = self._encode(questions)
        weights = torch.zeros(NUM_FEATURES, requires_grad=True)  # (features,)
        optimizer = torch.optim.Adam([weights], lr=0.05)
        for _ in range(NUM_STEPS):
            scores = torch.mv(inputs, weights)  # (options,)
            totals = torch.zeros(len(questions))  # (questions,)
            totals = totals.index_add(0, question_index, scores.exp())  # (questions,)
            nll = (totals.log() - scores[is_correct]).mean()
            loss = nll + 2e-3 * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.weights = weights.detach()

    def guess_by_features(self, questions: Sequence[Question]) -> list[str]:
        """Return the option of the highest score for each question."""
        scores = torch.mv(self._encode(questions)[0], self.weights).tolist()
        guesses = []
        for question in questions:
            own, scores = scores[: len(question.options)], scores[len(question.options) :]
            guesses.append(question.options[own.index(max(own))])
        return guesses

    def guess_by_frequency(self, questions: Sequence[Question]) -> list[str]:
        """Return the option that was the correct answer most often; the first one on a tie."""
        return [
            max(question.options, key=lambda option: self.answer_counts[option])
            for question in questions
        ]

    def _encode(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor, Tensor]:
        """Return hashed features of all options.

        Returns:
            The features `(options, features)`; per option `(options,)` the index of its question,
            and whether it is correct.
        """
        entries: list[tuple[int, int]] = []
        question_index, is_correct = [], []
        for number, question in enumerate(questions):
            for option, features in zip(question.options, option_features(question), strict=True):
                row = len(question_index)
                entries += [(row, zlib.crc32(name.encode()) % NUM_FEATURES) for name in features]
                question_index.append(number)
                is_correct.append(option == question.answer)
        indices = torch.tensor(entries).T  # (2, entries)
        size = (len(question_index), NUM_FEATURES)
        values = torch.ones(len(entries))  # (entries,)
        inputs = torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
        return inputs.coalesce(), torch.tensor(question_index), torch.tensor(is_correct)


def deviations_above_chance(questions: Sequence[Question], guesses: Sequence[str]) -> float:
    """Return how many standard deviations the number of correct guesses is above chance."""
    chances = [1 / len(question.options) for question in questions]
    pairs = zip(questions, guesses, strict=True)
    num_correct = sum(question.answer == guess for question, guess in pairs)
    variance = sum(chance * (1 - chance) for chance in chances)
    return (num_correct - sum(chances)) / math.sqrt(variance)
