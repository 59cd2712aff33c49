"""LVBench: JSON lines, one video each, whose questions hold their options and have one or more of six abilities.

Source: LVBench (arXiv:2406.08035). Its code publishes how answers are read and no instruction; the instruction is the one of
lmms-eval. Videos are named by their YouTube id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lit_hour.evaluation.benchmarks.base import Benchmark, Record, parse_labeled_options
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item

ABILITIES = (
    "entity recognition",
    "event understanding",
    "key information retrieval",
    "temporal grounding",
    "reasoning",
    "summarization",
)
INSTRUCTION = "\nAnswer the question with the option letter"


def iter_records(contents: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """A record for each question of each video, named by the video's number and its own."""
    for content in contents:
        for number, video in enumerate(
            content.content if isinstance(content.content, list) else (), start=1
        ):
            asked = video.get("qa") if isinstance(video, dict) else None
            for place, fields in enumerate(asked if isinstance(asked, list) else [None], start=1):
                known = {**fields, "key": video.get("key")} if isinstance(fields, dict) else {}
                yield Record(content.path, f"{number}, question {place}", known)


def parse(record: Record) -> Item:
    """A question with its options in its own lines."""
    question, *lines = record.text("question").rstrip().split("\n")
    options = parse_labeled_options(lines, "question", record.location)
    abilities = tuple(
        record.check_choice(ability, "question_type", ABILITIES)
        for ability in record.texts("question_type")
    )
    return Item(
        id=record.identifier("uid"),
        videos=(record.video(f"{record.text('key')}.mp4", "key"),),
        question=question,
        prompt=record.text("question") + INSTRUCTION,
        options=options,
        answer=record.one_of("answer", options),
        rule="lvbench",
        groups={"ability": abilities},
        location=record.location,
    )


BENCHMARK = Benchmark(
    name="lvbench",
    title="LVBench",
    columns=("key", "uid", "question", "answer", "question_type"),
    num_published=1549,
    iter_records=iter_records,
    parse=parse,
)
