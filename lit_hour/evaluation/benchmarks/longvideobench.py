"""LongVideoBench, validation: a JSON list with duration groups and levels.

Prompts are those of the published data loader, without the subtitles that it puts between frames,
as in lmms-eval's task for videos. An unmatched response counts as wrong; the published code draws
an option at random.

Source: LongVideoBench (arXiv:2407.15754).
"""

from __future__ import annotations

from lit_hour.evaluation.benchmarks.base import (
    Benchmark,
    Record,
    iter_list_records,
    lettered_options,
)
from lit_hour.evaluation.item import Item

INSTRUCTION = "Answer with the option's letter from the given choices directly."
DURATION_GROUPS_SECONDS = ("15", "60", "600", "3600")


def parse(record: Record) -> Item:
    """Parse one record of `lvb_val.json`; the test set has no answers and is refused."""
    options = lettered_options(record, "candidates")
    question = record.text("question")
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    duration_group = record.choice("duration_group", DURATION_GROUPS_SECONDS)
    return Item(
        id=record.identifier("id"),
        videos=(record.video(record.text("video_path"), "video_path"),),
        question=question,
        prompt="\n".join([f"Question: {question}", *lines, INSTRUCTION]),
        options=options,
        answer=list(options)[record.index("correct_choice", len(options))],
        rule="longvideobench",
        groups={
            "duration group in seconds": (duration_group,),
            "level": (record.text("level"),),
            "category": (record.text("question_category"),),
        },
        location=record.location,
    )


BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench validation",
    columns=(
        "id",
        "video_path",
        "question",
        "candidates",
        "correct_choice",
        "duration_group",
        "level",
        "question_category",
    ),
    num_published=1337,
    iter_records=iter_list_records,
    parse=parse,
    hint="the test set is published without answers; use lvb_val.json",
)
