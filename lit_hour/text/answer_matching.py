"""What a model said -> right or wrong, for the scores that training shows. Benchmarks have rules of their own."""

from __future__ import annotations

import re

from lit_hour.types import Question


def is_correct(question: Question, response: str) -> bool:
    """Whether an answer is the true one: by its words, or for multiple choice by its letter.

    "B", "B." and "(B) red" are the letter B. Case, punctuation and spaces do not count in words.
    """
    if not question.options or _words(response) in map(_words, question.options):
        return _words(response) == _words(question.answer)
    letter = re.match(r"\s*\(?([A-Z])(?![A-Za-z])", response)
    return letter is not None and letter.group(1) == question.answer_letter


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
