"""EgoSchema: `questions.json` with five options each, and `subset_answers.json` with the answers of 500 of them.

Source: EgoSchema (arXiv:2308.09126). The other answers are not published, so those questions are not asked. The instruction is
the one of lmms-eval. Videos are named by the question's id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import Benchmark, Record, iter_list_records
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item

NUM_OPTIONS = 5
INSTRUCTION = "Answer with the option's letter from the given choices directly."


def is_answer_file(value: Any) -> bool:
    """Whether a file's JSON maps ids to places of options."""
    return (
        isinstance(value, dict)
        and bool(value)
        and not any(isinstance(answer, dict | list) for answer in value.values())
    )


def iter_records(contents: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """The records whose answers are published, and the answers to which no record belongs; all records where there are none."""
    answers = {
        key: answer
        for content in contents
        if is_answer_file(content.content)
        for key, answer in content.content.items()
    }
    asked = set()
    for record in iter_list_records(contents):
        identifier = str(record.fields.get("q_uid"))
        asked.add(identifier)
        if identifier in answers:
            yield Record(record.file, record.name, {**record.fields, "answer": answers[identifier]})
        elif not answers or "q_uid" not in record.fields:
            yield record
    for content in contents:
        if is_answer_file(content.content):
            yield from (
                Record(content.path, key, {"q_uid": key})
                for key in content.content
                if key not in asked
            )


def parse(record: Record) -> Item:
    """One question with its answer, a place from 0 to 4."""
    question = record.text("question")
    options = {"ABCDE"[place]: record.text(f"option {place}") for place in range(NUM_OPTIONS)}
    place = record.value("answer")
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < NUM_OPTIONS:
        raise QuestionError(
            f"{record.location}: column 'answer': {place!r} is no place from 0 to {NUM_OPTIONS - 1}"
        )
    identifier = record.identifier("q_uid")
    listed = [f"{letter}. {words}" for letter, words in options.items()]
    return Item(
        id=identifier,
        videos=(record.video(f"{identifier}.mp4", "q_uid"),),
        question=question,
        prompt="\n".join([question, *listed, INSTRUCTION]),
        options=options,
        answer="ABCDE"[place],
        rule="choice",
        groups={},
        location=record.location,
    )


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema subset",
    columns=("q_uid", "question", *(f"option {place}" for place in range(NUM_OPTIONS)), "answer"),
    num_published=500,
    iter_records=iter_records,
    parse=parse,
    is_answer_file=is_answer_file,
    hint="give both questions.json and subset_answers.json",
)
