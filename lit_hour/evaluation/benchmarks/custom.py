"""The project's own question files in, items out: the world and needle sets, or any file that `pack` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_uppercase

from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.files import file_digests, read_file
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.types import Question


def load_custom(
    files: Sequence[Path], phrase: Callable[[Question], str], title: str
) -> QuestionSet:
    """Every question about a video; the formats are those of shards/README.md.

    Args:
        phrase: a question -> the words in which the model is asked, as in training.
        title: of the set, for readers.

    Raises:
        QuestionError: a file or a record in it cannot be used, an id is in two files, or a record is about no video. Nothing is
            left out: these files are made by ourselves.
    """
    items: dict[str, Item] = {}
    for file in files:
        for subject in read_questions(file):
            if subject.kind != "video":
                raise QuestionError(
                    f"{file}: {subject.name} is no video; only questions about videos are evaluated"
                )
            for question in subject.questions:
                place = f"{file}: question {question.id!r}"
                if question.id in items:
                    raise QuestionError(
                        f"{place}: the id is taken by {items[question.id].location}; ids must be unique"
                    )
                items[question.id] = _item(question, subject.files[0], phrase(question), place)
    return QuestionSet(
        "custom",
        title,
        tuple(items.values()),
        files=file_digests([read_file(file) for file in files]),
    )


def _item(question: Question, video: str, prompt: str, place: str) -> Item:
    options = dict(zip(ascii_uppercase, question.options, strict=False))
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
        location=place,
    )
