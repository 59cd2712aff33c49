"""MLVU dev: a JSON list for each of seven multiple-choice tasks and two generation tasks.

MLVU test: one JSON list of multiple-choice questions with ids, without answers, for a submission.

The published code uses these system prompts, begins the response to a multiple-choice question with
"Best option:(", and has a language model judge generation, with two scores from 1 to 5. The
published scores are M-Avg, the mean over the multiple-choice tasks, and G-Avg, the mean over the
generation tasks of the sum of both scores.

Source: MLVU (arXiv:2406.04264) and its code.
"""

from __future__ import annotations

from dataclasses import replace

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import (
    Benchmark,
    Options,
    Record,
    iter_list_records,
    lettered_options,
)
from lit_hour.evaluation.item import Item, JudgePrompt, MetricSpec

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
JUDGE_PROMPT_OF_TASK: dict[str, JudgePrompt] = {"subPlot": "sub_scene", "summary": "summary"}
FOLDER_OF_TASK = {**FOLDER_OF_CHOICE_TASK, **FOLDER_OF_GENERATION_TASK}

_WATCH = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
)
CHOICE_SYSTEM_PROMPT = f"{_WATCH}select the best option that accurately addresses the question.\n"
GENERATION_SYSTEM_PROMPT = f"{_WATCH}answer the given questions.\n"


def parse(record: Record) -> Item:
    """Parse a record of any of the nine files.

    No ids are published; an id is the task's folder and the number of the record.
    """
    task = record.choice("question_type", FOLDER_OF_TASK)
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
            system_prompt=GENERATION_SYSTEM_PROMPT,
            judge_prompt=JUDGE_PROMPT_OF_TASK[task],
            scoring_points=_scoring_points(record),
        )
    item = _choice_item(record, question, f"{folder}/{record.name}", task)
    return replace(
        item,
        videos=(f"{folder}/{video}", video),
        answer=_true_letter(answer, item.options, record),
        answer_start="Best option:(",
    )


def parse_without_answer(record: Record) -> Item:
    """Parse a record of the multiple-choice questions of the test set."""
    task, key = record.text("question_type"), record.identifier("question_id")
    return _choice_item(record, record.text("question"), key, task)


def _choice_item(record: Record, question: str, key: str, task: str) -> Item:
    """Return a multiple-choice question without its answer, as the test set has it."""
    options = lettered_options(record, "candidates")
    lines = "\n".join(f"({letter}) {text}" for letter, text in options.items())
    prompt = f"Question: {question}\nOptions:\n{lines}".rstrip() + "\nOnly give the best option."
    return Item(
        id=key,
        videos=(record.video(record.text("video"), "video"),),
        question=question,
        prompt=prompt,
        options=options,
        answer="",
        rule="mlvu",
        groups={"task": (task,)},
        location=record.location,
        system_prompt=CHOICE_SYSTEM_PROMPT,
        answer_start="Best Option: (",
    )


def _scoring_points(record: Record) -> tuple[str, ...]:
    """Return what a good description of a sub-scene mentions; summaries have no such list."""
    return record.texts("scoring_points") if "scoring_points" in record.fields else ()


def _true_letter(answer: str, options: Options, record: Record) -> str:
    """Return the letter of the last option that equals the answer, as the published code does.

    Some records repeat an option.
    """
    letters = [letter for letter, text in options.items() if text == answer]
    if not letters:
        raise QuestionError(
            f"{record.location}: column 'answer': {answer!r} is none of the options"
            f" {list(options.values())!r}"
        )
    return letters[-1]


BENCHMARK = Benchmark(
    name="mlvu",
    title="MLVU dev",
    columns=("video", "duration", "question", "answer", "question_type"),
    num_published=2593,
    iter_records=iter_list_records,
    parse=parse,
    metrics=(
        MetricSpec("M-Avg", "correct", tuple(FOLDER_OF_CHOICE_TASK)),
        MetricSpec("G-Avg", "total", tuple(FOLDER_OF_GENERATION_TASK), maximum=10.0),
    ),
)
TEST_BENCHMARK = Benchmark(
    name="mlvu_test",
    title="MLVU test",
    columns=("video", "question", "candidates", "question_type", "question_id"),
    num_published=502,
    iter_records=iter_list_records,
    parse=parse_without_answer,
)
