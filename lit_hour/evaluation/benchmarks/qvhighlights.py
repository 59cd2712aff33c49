"""QVHighlights, moment retrieval: JSON lines with a query and the windows in which it is seen.

R@1 compares the first stated interval with the window that fits it best, as the published code
does; its mean average precision needs a score of each window, which an answer in words does not
have. No instruction is published; this one is the project's own. Videos are named by `vid`.

Source: QVHighlights (arXiv:2107.09609) and its code.
"""

from __future__ import annotations

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
    'When in the video is this seen: "{query}"? Give the start and the end in seconds of each time,'
    ' the clearest first, such as "12.0 s to 15.5 s, 40.0 s to 41.0 s".'
)


def parse(record: Record) -> Item:
    """Parse one query of `highlight_val_release.jsonl`."""
    video, query = record.text("vid"), record.text("query")
    windows = record.value("relevant_windows")
    intervals = check_intervals(windows, "relevant_windows", record.location)
    return Item(
        id=record.identifier("qid"),
        videos=(record.video(f"{video}.mp4", "vid"),),
        question=query,
        prompt=PROMPT.format(query=query.rstrip(" .")),
        options={},
        answer=format_intervals(intervals),
        rule="intervals",
        groups={"number of windows": (str(len(intervals)),)},
        location=record.location,
        duration_seconds=record.optional_number("duration"),
        intervals=intervals,
    )


BENCHMARK = Benchmark(
    name="qvhighlights",
    title="QVHighlights validation",
    columns=("qid", "query", "duration", "vid", "relevant_windows"),
    num_published=1550,
    iter_records=iter_list_records,
    parse=parse,
    hint="the test set is published without windows; use highlight_val_release.jsonl",
    metrics=GROUNDING_METRICS,
)
