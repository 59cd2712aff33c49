"""LongVideoBench, validation: a JSON list with duration groups and levels.

Source: LongVideoBench (arXiv:2407.15754) and its data loader, whose words are asked here. It sets subtitles between the frames;
here they are left out, as in lmms-eval's task for videos. An answer that cannot be read is wrong here; the published code
draws an option for it at random.
"""

from __future__ import annotations

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import (
    Benchmark,
    Options,
    Record,
    iter_list_records,
    lettered_options,
)
from lit_hour.evaluation.item import Item

INSTRUCTION = "Answer with the option's letter from the given choices directly."
DURATION_GROUPS_SECONDS = ("15", "60", "600", "3600")


def parse(record: Record) -> Item:
    """One record of `lvb_val.json`; the test set has no answers and is refused."""
    options = lettered_options(record, "candidates")
    question = record.text("question")
    listed = [f"{letter}. {words}" for letter, words in options.items()]
    return Item(
        id=record.identifier("id"),
        videos=(record.video(record.text("video_path"), "video_path"),),
        question=question,
        prompt="\n".join([f"Question: {question}", *listed, INSTRUCTION]),
        options=options,
        answer=_true_letter(record, options),
        rule="longvideobench",
        groups={
            "duration group in seconds": (
                record.one_of("duration_group", DURATION_GROUPS_SECONDS),
            ),
            "level": (record.text("level"),),
            "category": (record.text("question_category"),),
        },
        location=record.location,
    )


def _true_letter(record: Record, options: Options) -> str:
    choice = record.value("correct_choice")
    if isinstance(choice, bool) or not isinstance(choice, int) or not 0 <= choice < len(options):
        raise QuestionError(
            f"{record.location}: column 'correct_choice': {choice!r} is no place from 0 to {len(options) - 1}"
        )
    return list(options)[choice]


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
    hint="the test set is published without answers: take lvb_val.json",
)
