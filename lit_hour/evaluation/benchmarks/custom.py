"""Load the project's own question files: the synthetic sets, or any file that `pack` accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_hour.data.questions.file import read_question_file
from lit_hour.data.questions.record import InvalidRecord, SampleSpec
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import GROUNDING_METRICS
from lit_hour.evaluation.benchmarks.files import BenchmarkFile, file_digests
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.io.hashing import hash_path
from lit_hour.text.answer_matching import label_options
from lit_hour.text.time_intervals import true_intervals
from lit_hour.types import Question


def load_custom(
    files: Sequence[Path],
    format_prompt: Callable[[Question], str],
    title: str,
    max_invalid: int = 0,
) -> QuestionSet:
    """Load every question about a video; shards/README.md specifies the formats.

    Args:
        files: the question files.
        format_prompt: question -> prompt, as in training.
        title: name of the set for readers.
        max_invalid: number of records that may be invalid.

    Raises:
        QuestionError: a file cannot be used, too many records are invalid, two questions have the
            same id, or a record is not about a video.
    """
    items: dict[str, Item] = {}
    invalid: list[InvalidRecord] = []
    for file in files:
        content = read_question_file(
            file, max_invalid - len(invalid), "evaluation.max_invalid_records"
        )
        invalid += content.invalid
        for spec in content.samples:
            if spec.modality != "video":
                raise QuestionError(
                    f"{file}: {spec.name} is not a video; only questions about videos can be"
                    " evaluated."
                )
            for question in spec.questions:
                location = f"{file}: question {question.id!r}"
                if question.id in items:
                    raise QuestionError(
                        f"{location}: the id is taken by {items[question.id].location}. Ids must be"
                        " unique."
                    )
                items[question.id] = _to_item(question, spec, format_prompt(question), location)
    digests = file_digests([BenchmarkFile(file, None, hash_path(file)) for file in files])
    has_intervals = any(item.rule == "intervals" for item in items.values())
    return QuestionSet(
        "custom",
        title,
        tuple(items.values()),
        tuple(invalid),
        files=digests,
        metrics=GROUNDING_METRICS if has_intervals else (),
    )


def _to_item(question: Question, spec: SampleSpec, prompt: str, location: str) -> Item:
    options = label_options(question.options)
    intervals = true_intervals("" if options else question.answer)
    return Item(
        id=question.id,
        videos=(spec.files[0],),
        question=question.question,
        prompt=prompt,
        options=options,
        answer=question.answer_letter if options else question.answer,
        rule="choice" if options else "intervals" if intervals else "words",
        groups={
            "format": (question.format.replace("_", " "),),
            **({"task": (question.task,)} if question.task else {}),
        },
        location=location,
        system_prompt=spec.system_prompt,
        clip_seconds=spec.clip_seconds,
        intervals=tuple(intervals),
    )
