"""MLVU dev: a JSON list for each of seven multiple-choice tasks and two tasks of generation.

Source: MLVU (arXiv:2406.04264) and the code published with it, which asks with this system prompt, begins the answer with
"Best option:(" and leaves generation to a language model as the judge.
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

FOLDER_OF_CHOICE_TASK = {
    "plotQA": "1_plotQA",
    "findNeedle": "2_needle",
    "ego": "3_ego",
    "count": "4_count",
    "order": "5_order",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
FOLDER_OF_GENERATION_TASK = {"subPlot": "8_sub_scene", "summary": "9_summary"}
FOLDER_OF_TASK = {**FOLDER_OF_CHOICE_TASK, **FOLDER_OF_GENERATION_TASK}

WATCH = "Carefully watch this video and pay attention to every detail. Based on your observations, "
CHOICE_SYSTEM = f"{WATCH}select the best option that accurately addresses the question.\n"
GENERATION_SYSTEM = f"{WATCH}answer the given questions.\n"


def parse(record: Record) -> Item:
    """A record of any of the nine files; ids are task folder and record number, since none are published."""
    task = record.one_of("question_type", FOLDER_OF_TASK)
    folder = FOLDER_OF_TASK[task]
    video = record.video(record.text("video"), "video")
    question, answer = record.text("question"), record.text("answer")
    if task in FOLDER_OF_GENERATION_TASK:
        return Item(
            id=f"{folder}/{record.name}",
            videos=(f"{folder}/{video}", video),
            question=question,
            prompt=question,
            options={},
            answer=answer,
            rule="needs_judge",
            groups={"task": (task,)},
            location=record.location,
            system_prompt=GENERATION_SYSTEM,
        )
    options = lettered_options(record, "candidates")
    listed = "\n".join(f"({letter}) {words}" for letter, words in options.items())
    return Item(
        id=f"{folder}/{record.name}",
        videos=(f"{folder}/{video}", video),
        question=question,
        prompt=f"Question: {question}\nOptions:\n{listed}".rstrip()
        + "\nOnly give the best option.",
        options=options,
        answer=_true_letter(answer, options, record),
        rule="mlvu",
        groups={"task": (task,)},
        location=record.location,
        system_prompt=CHOICE_SYSTEM,
        answer_start="Best option:(",
    )


def _true_letter(answer: str, options: Options, record: Record) -> str:
    """The last of the options that are the answer, as the published code takes it: some records repeat an option."""
    letters = [letter for letter, words in options.items() if words == answer]
    if not letters:
        raise QuestionError(
            f"{record.location}: column 'answer': {answer!r} is none of the options {list(options.values())!r}"
        )
    return letters[-1]


BENCHMARK = Benchmark(
    name="mlvu",
    title="MLVU dev",
    columns=("video", "duration", "question", "answer", "question_type"),
    num_published=2593,
    iter_records=iter_list_records,
    parse=parse,
)
