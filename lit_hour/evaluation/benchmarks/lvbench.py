"""LVBench: JSON lines, one video each; its questions hold their options and name their abilities.

The published code defines how responses are read, but no instruction; the instruction is that of
lmms-eval. Videos are named by their YouTube id.

Source: LVBench (arXiv:2406.08035).
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


def iter_records(files: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """Iterate over the questions of each video, named by the numbers of the video and question."""
    for file in files:
        videos = file.content if isinstance(file.content, list) else []
        for video_number, video in enumerate(videos, start=1):
            questions = video.get("qa") if isinstance(video, dict) else None
            for number, fields in enumerate(
                questions if isinstance(questions, list) else [None], start=1
            ):
                known = {**fields, "key": video.get("key")} if isinstance(fields, dict) else {}
                yield Record(file.path, f"{video_number}, question {number}", known)


def parse(record: Record) -> Item:
    """Parse a question; its lines after the first are the options."""
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
        answer=record.choice("answer", options),
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
