"""Charades-STA: a text file with a video, the start and end of an event, and its description.

A line is "VIDEO START END##description", with times in seconds. No instruction is published; this
one is the project's own. Videos are named by their Charades id.

Source: Charades-STA (arXiv:1705.02101).
"""

from __future__ import annotations

import re

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import (
    GROUNDING_METRICS,
    Benchmark,
    Record,
    check_intervals,
    iter_list_records,
)
from lit_hour.evaluation.item import Item
from lit_hour.text.time_intervals import format_intervals

PROMPT = (
    'When in the video does this happen: "{query}"? Give the start and the end in seconds, such as'
    ' "12.0 s to 15.5 s".'
)
_LINE = re.compile(r"(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.*\S)\s*")


def parse(record: Record) -> Item:
    """Parse one line. No ids are published; an id is the video and the number of the line."""
    line = record.text("line")
    match = _LINE.fullmatch(line)
    if match is None:
        raise QuestionError(
            f"{record.location}: {line!r:.80} is not of the form VIDEO START END##description"
        )
    video, start, end, query = match.groups()
    intervals = check_intervals([[float(start), float(end)]], "line", record.location)
    return Item(
        id=f"{video}/{record.name}",
        videos=(record.video(f"{video}.mp4", "line"),),
        question=query,
        prompt=PROMPT.format(query=query.rstrip(" .")),
        options={},
        answer=format_intervals(intervals),
        rule="intervals",
        groups={},
        location=record.location,
        intervals=intervals,
    )


BENCHMARK = Benchmark(
    name="charades_sta",
    title="Charades-STA test",
    columns=("line",),
    num_published=3720,
    iter_records=iter_list_records,
    parse=parse,
    metrics=GROUNDING_METRICS,
)
