"""TempCompass: for each of four tasks a JSON mapping of video and temporal aspect to questions.

Instructions after the question, and the rules that read responses, are those of the published code.
A judge decides which information a generated caption expresses; it gets the pieces of information
of the question itself, where the published code takes those of the multiple-choice question.

Source: TempCompass (arXiv:2403.00476) and its code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import Benchmark, Options, Record, parse_labeled_options
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item, Rule

ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
INSTRUCTION_OF_TASK = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": "\nPlease directly give the best option:",
    "captioning": "",
}
RULE_OF_TASK: Mapping[str, Rule] = {
    "multi-choice": "tempcompass_choice",
    "yes_no": "tempcompass_yes_no",
    "caption_matching": "tempcompass_matching",
    "captioning": "needs_judge",
}
YES_NO = {"yes": "yes", "no": "no"}

_INFORMATION = re.compile(r"Information ([A-Z]): (.*)")
_CAPTION = re.compile(r"((?:Caption|Sentence) [AB]|Option [12]): (.*)")


def iter_records(files: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """Iterate over the questions, named by video, aspect and number."""
    for file in files:
        for video, aspects in _entries(file.content):
            for aspect, questions in _entries(aspects):
                for number, fields in enumerate(
                    questions if isinstance(questions, list) else [questions], start=1
                ):
                    is_question = isinstance(fields, dict)
                    known = {**fields, "video": video, "aspect": aspect} if is_question else {}
                    yield Record(file.path, f"{video}/{aspect}/{number}", known)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over the pairs of a mapping; anything else has none."""
    yield from value.items() if isinstance(value, dict) else ()


def parse(record: Record) -> Item:
    """Parse a question of any of the four files; its form tells the task."""
    video = record.video(f"{record.text('video')}.mp4", "video")
    aspect = record.choice("aspect", ASPECTS)
    question, answer = record.text("question"), record.text("answer")
    first, *lines = question.split("\n")
    task = _task_of(question, lines)
    statements: tuple[str, ...] = ()
    if task == "captioning":
        options: Options = {}
        found = map(_INFORMATION.fullmatch, lines)
        statements = tuple(f"{match[1]}. {match[2]}" for match in found if match)
    elif task == "yes_no":
        options, answer = YES_NO, record.check_choice(answer, "answer", YES_NO)
    elif task == "caption_matching":
        options = {match[1]: match[2] for match in map(_CAPTION.fullmatch, lines) if match}
        answer = _label_of(answer, lines, options, record)
    else:
        options = parse_labeled_options(lines, "question", record.location)
        answer = _label_of(answer, lines, options, record)
    return Item(
        id=f"{task}/{record.name}",
        videos=(video,),
        question=first,
        prompt=question + INSTRUCTION_OF_TASK[task],
        options=options,
        answer=answer,
        rule=RULE_OF_TASK[task],
        groups={"task": (task,), "aspect": (aspect,), "aspect of a task": (f"{task}, {aspect}",)},
        location=record.location,
        judge_prompt="caption" if task == "captioning" else "",
        scoring_points=statements,
    )


def _task_of(question: str, lines: list[str]) -> str:
    if question.rstrip().endswith("Generated Caption:"):
        return "captioning"
    if not lines:
        return "yes_no"
    return "caption_matching" if all(map(_CAPTION.fullmatch, lines)) else "multi-choice"


def _label_of(answer: str, lines: list[str], options: Options, record: Record) -> str:
    """Return the label of the option line that equals the answer."""
    for line, label in zip(lines, options, strict=True):
        if line.strip() == answer.strip():
            return label
    raise QuestionError(
        f"{record.location}: column 'answer': {answer!r} is none of the options {lines!r}"
    )


BENCHMARK = Benchmark(
    name="tempcompass",
    title="TempCompass",
    columns=("video", "aspect", "question", "answer"),
    num_published=7540,
    iter_records=iter_records,
    parse=parse,
)
