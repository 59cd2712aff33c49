"""Descriptions of a video with times: the questions, the lines of their answers, and chapters.

`lit-hour annotate` writes training material in these words, and `lit-hour describe` asks in them.
Entry points: `format_lines`, `parse_lines` and `merge_passages`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil

from lit_hour.text.timestamp import format_timestamp

SUMMARY_QUESTION = "Summarize the video."
CHAPTERS_QUESTION = "Divide the video into chapters, one per line, with their times."
NO_EVENTS = "None."
MAX_CHAPTERS = 12
MAX_TITLE_CHARACTERS = 80
MAX_SENTENCES = 8  # of a chapter; further ones of merged passages are left out

_CLOCK = r"\d{1,3}(?::[0-5]?\d){1,2}"
_LINE = re.compile(rf"\W*({_CLOCK})\s*(?:to|-|–|—|until)\s*({_CLOCK})\W*[:,.\-–—\s]\s*(.+)")
_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Passage:
    """A text about a part of a video; times in seconds."""

    start_seconds: float
    end_seconds: float
    text: str

    @property
    def title(self) -> str:
        """The first sentence, shortened, without its full stop."""
        sentences = _SENTENCE.findall(" ".join(self.text.split()))
        title = sentences[0].strip().rstrip(".") if sentences else ""
        if len(title) <= MAX_TITLE_CHARACTERS:
            return title
        return title[:MAX_TITLE_CHARACTERS].rsplit(" ", 1)[0] + " ..."


def caption_question(start_seconds: float, end_seconds: float) -> str:
    """Return the question for the caption of a part of a video."""
    return f"Describe what happens between {_format_bounds(start_seconds, end_seconds)}."


def events_question(start_seconds: float, end_seconds: float) -> str:
    """Return the question for the events that begin in a part of a video."""
    bounds = _format_bounds(start_seconds, end_seconds)
    return f"List the events between {bounds}, one per line, with their times."


def format_lines(passages: Sequence[Passage]) -> str:
    """Return passages as lines such as `01:20 to 02:00: A man enters.`; "None." without any."""
    lines = [
        f"{_format_bounds(passage.start_seconds, passage.end_seconds, 'to')}:"
        f" {' '.join(passage.text.split())}"
        for passage in passages
    ]
    return "\n".join(lines) or NO_EVENTS


def parse_lines(
    text: str, start_seconds: float, end_seconds: float, duration_seconds: float
) -> list[Passage]:
    """Return the passages of the lines that `format_lines` writes, and of similar ones.

    Lines of another form are left out, and those whose times are reversed or outside the limits. A
    passage that ends after the video ends with it.

    Args:
        text: that a model generated.
        start_seconds: passages that begin earlier are left out.
        end_seconds: passages that begin then or later are left out.
        duration_seconds: of the video.
    """
    passages = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            start, end = _parse_clock(match[1]), _parse_clock(match[2])
            # a line has full seconds
            if int(start_seconds) <= start < min(end_seconds, duration_seconds) and start < end:
                passages.append(Passage(start, min(end, duration_seconds), match[3].strip()))
    return passages


def merge_passages(
    passages: Sequence[Passage], max_chapters: int = MAX_CHAPTERS, min_similarity: float = 0.6
) -> list[Passage]:
    """Merge neighbors that say almost the same, and then the most similar ones, into chapters.

    The similarity of two texts is the Jaccard index of their words. A merged text has the sentences
    of both, each once.

    Args:
        passages: in the order of time.
        max_chapters: limit on the result.
        min_similarity: neighbors above it are merged in any case.
    """
    chapters = list(passages)
    while len(chapters) > 1:
        similarities = [word_similarity(one.text, other.text) for one, other in pairwise(chapters)]
        best = max(range(len(similarities)), key=similarities.__getitem__)
        if len(chapters) <= max_chapters and similarities[best] < min_similarity:
            break
        one, other = chapters[best : best + 2]
        text = _join_texts(one.text, other.text)
        chapters[best : best + 2] = [Passage(one.start_seconds, other.end_seconds, text)]
    return chapters


def _join_texts(one: str, other: str) -> str:
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(f"{one} {other}")]
    return " ".join(list(dict.fromkeys(filter(None, sentences)))[:MAX_SENTENCES])


def word_similarity(one: str, other: str) -> float:
    """Return the Jaccard index of the words of two texts, in [0, 1]."""
    words, others = _words(one), _words(other)
    return len(words & others) / max(len(words | others), 1)


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _format_bounds(start_seconds: float, end_seconds: float, link: str = "and") -> str:
    """Return both times in full seconds; the interval does not become shorter."""
    return f"{format_timestamp(start_seconds)} {link} {format_timestamp(ceil(end_seconds))}"


def _parse_clock(text: str) -> float:
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
