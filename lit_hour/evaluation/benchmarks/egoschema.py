"""EgoSchema: `questions.json` with five options each, and `subset_answers.json` with 500 answers.

The other answers are not published: "egoschema" leaves those questions out, and "egoschema_test"
has all 5,031 questions for a submission. The instruction is that of lmms-eval.
Videos are named by the question's id.

Source: EgoSchema (arXiv:2308.09126).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lit_hour.evaluation.benchmarks.base import Benchmark, Record, iter_list_records
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item

NUM_OPTIONS = 5
LETTERS = "ABCDE"
INSTRUCTION = "Answer with the option's letter from the given choices directly."


def is_answer_file(content: Any) -> bool:
    """Return whether the JSON of a file maps question ids to option indices."""
    return (
        isinstance(content, dict)
        and bool(content)
        and not any(isinstance(answer, dict | list) for answer in content.values())
    )


def iter_records(files: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """Iterate over the records with a published answer, then over answers without a record.

    Without a file of answers, iterate over all records.
    """
    answer_files = [file for file in files if is_answer_file(file.content)]
    answers = {key: answer for file in answer_files for key, answer in file.content.items()}
    question_ids = set()
    for record in iter_list_records(files):
        key = str(record.fields.get("q_uid"))
        question_ids.add(key)
        if key in answers:
            yield Record(record.file, record.name, {**record.fields, "answer": answers[key]})
        elif not answers or "q_uid" not in record.fields:
            yield record
    for file in answer_files:
        for key in file.content:
            if key not in question_ids:
                yield Record(file.path, key, {"q_uid": key})


def parse(record: Record) -> Item:
    """Parse one question with its answer, an index from 0 to 4."""
    item = parse_without_answer(record)
    return replace(item, answer=LETTERS[record.index("answer", NUM_OPTIONS)])


def parse_without_answer(record: Record) -> Item:
    """Parse one question of the whole set."""
    question = record.text("question")
    options = {letter: record.text(f"option {index}") for index, letter in enumerate(LETTERS)}
    key = record.identifier("q_uid")
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    return Item(
        id=key,
        videos=(record.video(f"{key}.mp4", "q_uid"),),
        question=question,
        prompt="\n".join([question, *lines, INSTRUCTION]),
        options=options,
        answer="",
        rule="choice",
        groups={},
        location=record.location,
    )


COLUMNS = ("q_uid", "question", *(f"option {index}" for index in range(NUM_OPTIONS)))
BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema subset",
    columns=(*COLUMNS, "answer"),
    num_published=500,
    iter_records=iter_records,
    parse=parse,
    is_answer_file=is_answer_file,
    hint="pass both questions.json and subset_answers.json, or evaluate egoschema_test",
)
TEST_BENCHMARK = Benchmark(
    name="egoschema_test",
    title="EgoSchema",
    columns=COLUMNS,
    num_published=5031,
    iter_records=iter_list_records,
    parse=parse_without_answer,
    hint="pass questions.json alone",
)
