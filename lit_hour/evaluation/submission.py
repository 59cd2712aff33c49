"""Write the file that the site of a benchmark takes, for sets without public answers.

Sources: the Kaggle competition of EgoSchema (`q_uid,answer` with the index of the option), the task
longvideobench_test_v of lmms-eval, by the benchmark's authors (question id -> answer), and
`evaluation_test/test_res.json` of MLVU. A question without an answer stays in the file: its answer
is -1 for EgoSchema, as lmms-eval has it, and otherwise empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.report.report import Report
from lit_hour.io.atomic import atomic_write_text

Answers = Sequence[tuple[Item, str | None]]  # each question with the label that was chosen


@dataclass(frozen=True)
class SubmissionFormat:
    """Name of the file, and a function that returns its content."""

    file_name: str
    render: Callable[[Answers], str]


def render_egoschema(answers: Answers) -> str:
    """Return a CSV table of option indices from 0."""
    rows = [
        f"{item.id},{list(item.options).index(label) if label else -1}" for item, label in answers
    ]
    return "\n".join(["q_uid,answer", *rows]) + "\n"


def render_longvideobench(answers: Answers) -> str:
    """Return a JSON object of letters by question id."""
    return json.dumps({item.id: label or "" for item, label in answers}, indent=1) + "\n"


def render_mlvu(answers: Answers) -> str:
    """Return a JSON list of question ids, their types and letters."""
    records = [
        {"question_id": item.id, "question_type": item.groups["task"][0], "option": label or ""}
        for item, label in answers
    ]
    return json.dumps(records, indent=4) + "\n"


FORMATS = {
    "egoschema_test": SubmissionFormat("submission.csv", render_egoschema),
    "longvideobench_test": SubmissionFormat("submission.json", render_longvideobench),
    "mlvu_test": SubmissionFormat("test_res.json", render_mlvu),
}


def write_submission(questions: QuestionSet, report: Report, folder: Path) -> str:
    """Write the submission of a set without public answers.

    Args:
        questions: all of the files.
        report: on the responses.
        folder: of the evaluation.

    Returns:
        A line for the summary; "" if the benchmark has public answers.
    """
    if questions.benchmark not in FORMATS:
        return ""
    submission = FORMATS[questions.benchmark]
    label_of_question = {result.id: result.chosen for result in report.results}
    answers = [(item, label_of_question.get(item.id)) for item in questions.items]
    path = folder / submission.file_name
    atomic_write_text(path, submission.render(answers))
    num_without = sum(label is None for _, label in answers)
    counts = f"{len(answers)} questions, {num_without} of them without an answer"
    if questions.num_published not in (None, len(answers)):
        counts += f"; the whole set has {questions.num_published}"
    return f"submission: {path} ({counts})"
