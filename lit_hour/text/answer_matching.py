"""Decide whether a response is correct: one rule for training's accuracy and for evaluation.

`is_correct` judges a response to a `Question`. Benchmarks that publish no rule of their own use
`match_option` and `same_words` through `lit_hour.evaluation.scoring`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

from lit_hour.types import Question

_LEAD_IN = re.compile(
    r"\A(?:so,? |therefore,? )?(?:the |my )?(?:best |correct |right )?"
    r"(?:answer|option)(?: is)?[:\s]\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[(\[]?([A-Z])(?:[.):\]]+|\Z)")
_LETTER_BEFORE_TEXT = re.compile(r"([A-Z])[\s,-]+")


def is_correct(question: Question, response: str) -> bool:
    """Return whether a response gives the true answer.

    A response to a multiple-choice question is correct if `match_option` finds the true option in
    it; any other response if it has the words of the true answer, in order.
    """
    if not question.options:
        return same_words(question.answer, response)
    answer = question.answer_letter
    return match_option(response, label_options(question.options), answer) == answer


def label_options(options: tuple[str, ...]) -> dict[str, str]:
    """Return the options under their letters: "A" for the first."""
    return dict(zip(ascii_uppercase, options, strict=False))


def match_option(response: str, options: Mapping[str, str], answer: str) -> str | None:
    """Return the label of the option that a response chooses.

    A response chooses an option by its letter ("B", "(B)", "The answer is B."), by its text
    ("red"), or by both where they agree ("B. red"). "A red car" is not the letter A, and "B. red"
    chooses nothing where "red" is the text of another option. Case, punctuation and spaces do not
    count in texts.

    Args:
        response: text that the model generated.
        options: label -> text.
        answer: label of the true option, which is returned where options of equal text match.

    Returns:
        A label, or None if the response chooses no option.
    """
    stripped = response.strip()
    text = _LEAD_IN.sub("", stripped, count=1)
    if labels := _labels_with_text(stripped, options) or _labels_with_text(text, options):
        return answer if answer in labels else labels[0]
    letter = _LETTER.match(text) or _LETTER_BEFORE_TEXT.match(text)
    if letter is None or letter[1] not in options:
        return None
    labels = _labels_with_text(text[letter.end() :], options)
    is_bare = letter.re is _LETTER and not labels
    return letter[1] if is_bare or letter[1] in labels else None


def same_words(first: str, second: str) -> bool:
    """Return whether two texts have the same words in the same order.

    Case, punctuation and spaces do not count, except in a text without words such as "+".
    """
    words = re.findall(r"\w+", first.casefold())
    return first.strip() == second.strip() or (
        bool(words) and words == re.findall(r"\w+", second.casefold())
    )


def _labels_with_text(text: str, options: Mapping[str, str]) -> list[str]:
    """Return the labels of the options with this text; several if options are alike."""
    return [label for label, option in options.items() if same_words(option, text)]
