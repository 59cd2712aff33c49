"""lmms-eval runs its own tasks, unchanged, with a tiny run on made-up videos in these tasks' file formats.

lmms-eval 0.7.3 asks for av<16 and much that it does not import, so install it beside the rest like this, from the checkout:

    pip install --no-deps lmms-eval==0.7.3
    pip install datasets evaluate loguru sacrebleu tenacity pytz python-dotenv jsonlines pytablewriter numexpr requests \\
        scikit-learn
    pip install --no-deps --editable .
    python -m pytest tests/evaluation/test_lmms_eval.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lit_hour.data.questions import parse_question
from lit_hour.run import RunFolder
from lit_hour.serving.likelihood import measure_likelihood
from lit_hour.serving.session import Memory, Session
from lit_hour.text.chat import phrase_question
from lit_hour.types import Answer, Question

if TYPE_CHECKING:
    from small_run import Small

if find_spec("lmms_eval") is None:
    pytest.skip("lmms_eval is not installed; this file says how", allow_module_level=True)
if not entry_points(group="lmms_eval.models", name="lit_hour"):
    pytest.skip("lit_hour is not installed: pip install --no-deps --editable .", allow_module_level=True)

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_QUESTIONS = 4  # about each of two videos
MLVU_ENDING = "\nOnly give the best option.\nBest option: ("  # of the task's post_prompt
BABBLE = ("model.language.initial_deviation=0.5", "model.language.tie_embeddings=false", "training.max_steps=1")


@pytest.fixture(scope="module")
def run(small: Small) -> RunFolder:
    """A run that has learnt next to nothing: it says something else to each question."""
    small.train("babbling", *BABBLE, "training.checkpoint_every_steps=1", "training.validate_every_steps=1")
    return small.run("babbling")


@pytest.fixture(scope="module")
def questions(small: Small) -> list[Question]:
    """Multiple-choice questions about the first video, then about the second."""
    records = json.loads((small.yaml.parent / "world/validation/questions.json").read_text())
    asked = [parse_question(record, "questions.json") for record in records if len(record.get("options", ())) > 1]
    videos = sorted({question.video for question in asked})
    return [q for video in videos for q in [each for each in asked if each.video == video][:NUM_QUESTIONS]]


@pytest.fixture(scope="module")
def harness(small: Small, questions: list[Question], tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A folder in which lmms-eval finds the data sets of two of its tasks by their names on the hub."""
    folder = tmp_path_factory.mktemp("harness")
    for name, videos, records, card in (
        ("sy1998/MLVU_dev", "mlvu", [as_mlvu(question) for question in questions], ""),
        ("lmms-eval/egoschema", "egoschema/videos", [as_egoschema(question) for question in questions], EGOSCHEMA_CARD),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / name / "README.md").write_text(card)
        (folder / "hub" / videos).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(small.yaml.parent / "world/validation/videos", folder / "hub" / videos)
    return Harness(folder)


EGOSCHEMA_CARD = "---\nconfigs:\n- config_name: Subset\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"


def as_mlvu(question: Question) -> dict[str, Any]:
    asked = phrase_question(question, "letter")
    return {"video_name": question.video, "question": asked, "answer": question.answer_letter, "task_type": "count"}


def as_egoschema(question: Question) -> dict[str, Any]:
    options = [f"{chr(ord('A') + place)}. {option.replace('.', '')}" for place, option in enumerate(question.options)]
    answer = str(question.options.index(question.answer))
    return {"video_idx": Path(question.video).stem, "question": question.question, "option": options, "answer": answer}


class Harness:
    """lmms-eval in a process of its own, in a folder with local data sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, name: str, run: RunFolder, tasks: str, *more: str) -> dict[str, list[dict[str, Any]]]:
        """What it logs for each question, by task."""
        words = [*("--model", "lit_hour", "--model_args", f"run={run.path},checkpoint=last,device=cpu"), "--tasks", tasks]
        output = [*("--log_samples", "--output_path", name), *more]
        environment = {"HF_HOME": str(self.folder / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-m", "lmms_eval", *words, *output],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        logs = (self.folder / name).rglob("*_samples_*.jsonl")
        found = {log.stem.split("_samples_")[1]: list(map(json.loads, log.read_text().splitlines())) for log in logs}
        assert found.keys() == set(tasks.split(",")), done.stdout + done.stderr
        return {task: sorted(samples, key=lambda sample: sample["doc_id"]) for task, samples in found.items()}


@pytest.fixture(scope="module")
def session(run: RunFolder) -> Session:
    return Session.open(run.path, "last", "cpu", ["answer.max_new_tokens=16"])  # as the task mlvu_dev has it


@pytest.fixture(scope="module")
def memories(session: Session, small: Small, questions: list[Question]) -> dict[str, Memory]:
    folder = small.yaml.parent / "world/validation/videos"
    return {name: session.remember(folder / name) for name in {question.video for question in questions}}


@pytest.fixture(scope="module")
def said(session: Session, memories: dict[str, Memory], questions: list[Question]) -> list[str]:
    """What lit_hour itself answers to the prompts of mlvu_dev."""
    answers = []
    for question in questions:
        *_, answer = session.ask(memories[question.video], phrase_question(question, "letter") + MLVU_ENDING)
        assert isinstance(answer, Answer)
        answers.append(answer.text.split("\n\n")[0])
    assert len(set(answers)) > 2
    return answers


def test_a_chat_task_gets_the_answers_of_the_session(harness: Harness, run: RunFolder, said: list[str]) -> None:
    samples = harness.run("chat", run, "mlvu_dev")["mlvu_dev"]
    assert [sample["resps"][0] for sample in samples] == [[answer] for answer in said]


def test_a_simple_task_and_likelihoods_are_those_of_the_session(
    harness: Harness,
    run: RunFolder,
    session: Session,
    memories: dict[str, Memory],
    questions: list[Question],
    said: list[str],
) -> None:
    samples = harness.run("simple", run, "mlvu_dev,egoschema_subset_mcppl", "--force_simple")
    assert [sample["resps"][0] for sample in samples["mlvu_dev"]] == [[answer] for answer in said]
    for question, sample in zip(questions, samples["egoschema_subset_mcppl"], strict=True):
        options = [option.replace(".", "") for option in question.options]
        found = [measure_likelihood(session, memories[question.video], question.question, option) for option in options]
        logged = [response[0] for response in sample["resps"]]
        assert [loss for loss, _ in logged] == pytest.approx([each.loss for each in found], rel=1e-6)
        losses = [each.loss for each in found]
        assert sample["score"]["pred"] == losses.index(min(losses))
