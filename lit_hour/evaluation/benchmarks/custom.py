"""Load the project's own question files: the synthetic sets, or any file that `pack` accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.files import file_digests, read_file
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.text.answer_matching import label_options
from lit_hour.types import Question


def load_custom(
    files: Sequence[Path], format_prompt: Callable[[Question], str], title: str
) -> QuestionSet:
    """Load every question about a video; shards/README.md specifies the formats.

    Args:
        files: the question files.
        format_prompt: question -> prompt, as in training.
        title: name of the set for readers.

    Raises:
        QuestionError: a file or a record cannot be used, two questions have the same id, or a
            record is not about a video. There is no budget for invalid records, because the files
            are the user's own.
    """
    items: dict[str, Item] = {}
    for file in files:
        for spec in read_questions(file):
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
                video, prompt = spec.files[0], format_prompt(question)
                items[question.id] = _to_item(question, video, prompt, location)
    digests = file_digests([read_file(file) for file in files])
    return QuestionSet("custom", title, tuple(items.values()), files=digests)


def _to_item(question: Question, video: str, prompt: str, location: str) -> Item:
    options = label_options(question.options)
    return Item(
        id=question.id,
        videos=(video,),
        question=question.question,
        prompt=prompt,
        options=options,
        answer=question.answer_letter if options else question.answer,
        rule="choice" if options else "words",
        groups={
            "format": (question.format.replace("_", " "),),
            **({"task": (question.task,)} if question.task else {}),
        },
        location=location,
    )
