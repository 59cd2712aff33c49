"""Recognize a multiple-choice question by the options in its text (`recognize_choice`)."""

from __future__ import annotations

import re
from dataclasses import replace
from string import ascii_uppercase

from lit_hour.types import Question

_LABELS = (
    re.compile(r"(?:\A|\n)[ \t]*\(?([A-Z])[.):][ \t]+"),  # each at the start of a line
    re.compile(r"(?:\A|\s)\(?([A-Z])[.):]\s+"),  # anywhere
)
_ANSWER = re.compile(r"\(?([A-Z])(?:[.):]\s*(.*))?", re.DOTALL)
_HEADING = re.compile(r"\s*\b(?:options|choices|candidates)\s*:\s*\Z", re.IGNORECASE)
_INSTRUCTION = re.compile(
    r"\s+(?:please|answer|select|choose|respond|provide|give)\b[^\n]*"
    r"\b(?:letter|option|choice)s?\b[^\n]*\Z",
    re.IGNORECASE,
)


def recognize_choice(question: Question) -> Question | None:
    """Return a question with the options in its text as options; None if it has none.

    The answer has to name one of them: by its letter, its text or both. An instruction behind the
    options, such as "Answer with the letter.", is dropped.
    """
    for labels in _LABELS:
        found = _split_options(question.question, labels)
        if found is None:
            continue
        stem, options = found
        answer = _find_answer(question.answer, options)
        if answer is not None and stem.strip() and len(set(options)) == len(options):
            return replace(
                question, question=stem, options=options, answer=answer, format="multiple_choice"
            )
    return None


def _split_options(text: str, labels: re.Pattern[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the text before the options A, B, ... and the options; the last run of them counts."""
    found = list(labels.finditer(text))
    starts = [index for index, match in enumerate(found) if match[1] == "A"]
    if not starts:
        return None
    run = []
    for match, letter in zip(found[starts[-1] :], ascii_uppercase, strict=False):
        if match[1] != letter:
            break
        run.append(match)
    if len(run) < 2:
        return None
    ends = [*(match.start() for match in run[1:]), len(text)]
    options = [text[match.end() : end].strip() for match, end in zip(run, ends, strict=True)]
    options[-1] = _INSTRUCTION.sub("", options[-1]).strip()
    if not all(options):
        return None
    return _HEADING.sub("", text[: run[0].start()]).rstrip(), tuple(options)


def _find_answer(answer: str, options: tuple[str, ...]) -> str | None:
    """Return the option that an answer names; None if it names none, or a letter and another."""
    if answer in options:
        return answer
    match = _ANSWER.fullmatch(answer.strip())
    index = ord(match[1]) - ord("A") if match else len(options)
    if match is None or index >= len(options):
        return None
    text = (match[2] or "").strip()
    return options[index] if text.rstrip(".") in ("", options[index].rstrip(".")) else None
