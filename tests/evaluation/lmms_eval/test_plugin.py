"""lmms-eval runs its own tasks, unchanged, with a tiny run on made-up videos in these tasks' file formats.

lmms-eval 0.7.3 asks for av<16 and much that it does not import, so install it beside the rest like this, from the checkout:

    pip install --no-deps lmms-eval==0.7.3
    pip install datasets evaluate loguru pytablewriter pytz requests sacrebleu tenacity
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
from PIL import Image

from lit_hour.data.questions.record import parse_question
from lit_hour.errors import ConfigError, VideoError
from lit_hour.inference.predictor import Answer, VideoMemory, VideoPredictor
from lit_hour.run_dir import RunDir
from lit_hour.text.chat_template import format_question
from lit_hour.types import Question
from tests import REPOSITORY

if TYPE_CHECKING:
    from tests.helpers.toy_run import ToyProject

if find_spec("lmms_eval") is None:
    pytest.skip("lmms_eval is not installed; this file says how", allow_module_level=True)
if not entry_points(group="lmms_eval.models", name="lit_hour"):
    pytest.skip(
        "lit_hour is not installed: pip install --no-deps --editable .", allow_module_level=True
    )

NUM_QUESTIONS = 4  # about each of two videos
MLVU_ENDING = "\nOnly give the best option.\nBest option: ("  # of the task's post_prompt
Asked = tuple[str, Question]  # the name of a video, and a question about it
BABBLE = (
    "model.llm.initializer_range=0.5",
    "model.llm.tie_word_embeddings=false",
    "training.max_steps=1",
)


@pytest.fixture(scope="module")
def run(toy: ToyProject) -> RunDir:
    """A run that has learnt next to nothing: it says something else to each question."""
    toy.train(
        "random_run",
        *BABBLE,
        "training.save_every_n_steps=1",
        "training.val_every_n_steps=1",
    )
    return toy.run_dir("random_run")


@pytest.fixture(scope="module")
def asked(toy: ToyProject) -> list[Asked]:
    """Multiple-choice questions about the first video, then about the second."""
    records = json.loads((toy.yaml.parent / "world/validation/questions.json").read_text())
    found: dict[str, list[Asked]] = {}
    for record in records:
        if (
            len(record.get("options", ())) > 1
            and len(found.setdefault(record["video"], [])) < NUM_QUESTIONS
        ):
            found[record["video"]].append(
                (record["video"], parse_question(record, "questions.json"))
            )
    assert [len(about) for about in found.values()] == [NUM_QUESTIONS] * 2
    return [each for about in found.values() for each in about]


@pytest.fixture(scope="module")
def folder(toy: ToyProject, asked: list[Asked], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which lmms-eval finds the data sets of two of its tasks by their names on the hub."""
    folder = tmp_path_factory.mktemp("harness")
    for name, videos, records, card in (
        ("sy1998/MLVU_dev", "mlvu", [as_mlvu(*each) for each in asked], ""),
        (
            "lmms-eval/egoschema",
            "egoschema/videos",
            [as_egoschema(*each) for each in asked],
            EGOSCHEMA_CARD,
        ),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
        (folder / name / "README.md").write_text(card)
        shutil.copytree(toy.yaml.parent / "world/validation/videos", folder / "hub" / videos)
    return folder


EGOSCHEMA_CARD = "---\nconfigs:\n- config_name: Subset\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"


def as_mlvu(video: str, question: Question) -> dict[str, Any]:
    words = format_question(question, "letter")
    return {
        "video_name": video,
        "question": words,
        "answer": question.answer_letter,
        "task_type": "count",
    }


def prompt_of(question: Question) -> str:
    """As mlvu_dev asks."""
    return format_question(question, "letter") + MLVU_ENDING


def as_egoschema(video: str, question: Question) -> dict[str, Any]:
    options = [
        f"{chr(ord('A') + place)}. {option.replace('.', '')}"
        for place, option in enumerate(question.options)
    ]
    answer = str(question.options.index(question.answer))
    return {
        "video_idx": Path(video).stem,
        "question": question.question,
        "option": options,
        "answer": answer,
    }


@pytest.fixture(scope="module")
def logged(folder: Path, run: RunDir) -> dict[str, list[dict[str, Any]]]:
    """What lmms-eval logs for each question, by how it is called and the task; it is called in both ways at once."""
    started = {
        "chat": start(folder, run, "chat", "mlvu_dev"),
        "simple": start(folder, run, "simple", "mlvu_dev,egoschema_subset_mcppl", "--force_simple"),
    }
    found = {}
    for way, process in started.items():
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        for log in (folder / way).rglob("*_samples_*.jsonl"):
            samples = [json.loads(line) for line in log.read_text().splitlines()]
            found[f"{way} {log.stem.split('_samples_')[1]}"] = sorted(
                samples, key=lambda sample: sample["doc_id"]
            )
    return found


def start(folder: Path, run: RunDir, output: str, tasks: str, *more: str) -> subprocess.Popen[str]:
    """lmms-eval in a process of its own."""
    model = ("--model", "lit_hour", "--model_args", f"run={run.path},checkpoint=last,device=cpu")
    words = [
        sys.executable,
        "-m",
        "lmms_eval",
        *model,
        "--tasks",
        tasks,
        "--log_samples",
        "--output_path",
        output,
        *more,
    ]
    environment = os.environ | {
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def session(run: RunDir) -> VideoPredictor:
    return VideoPredictor.from_run(
        run.path, "last", "cpu", ["generation.max_new_tokens=16"]
    )  # as the task mlvu_dev has it


@pytest.fixture(scope="module")
def memories(
    session: VideoPredictor, toy: ToyProject, asked: list[Asked]
) -> dict[str, VideoMemory]:
    folder = toy.yaml.parent / "world/validation/videos"
    return {name: session.encode_video(folder / name) for name in {video for video, _ in asked}}


@pytest.fixture(scope="module")
def said(
    session: VideoPredictor, memories: dict[str, VideoMemory], asked: list[Asked]
) -> list[str]:
    """What lit_hour itself answers to the prompts of mlvu_dev."""
    answers = []
    for video, question in asked:
        *_, answer = session.generate(memories[video], prompt_of(question))
        assert isinstance(answer, Answer)
        answers.append(answer.text.split("\n\n")[0].strip())  # lmms-eval strips what it logs
    assert len(set(answers)) > 2
    return answers


# The whole harness


@pytest.mark.parametrize("way", ["chat", "simple"])
def test_a_task_gets_the_answers_of_the_session(
    way: str, logged: dict[str, list[dict[str, Any]]], asked: list[Asked], said: list[str]
) -> None:
    samples = logged[f"{way} mlvu_dev"]
    assert [sample["input"] for sample in samples] == [prompt_of(question) for _, question in asked]
    assert [sample["filtered_resps"] for sample in samples] == said


def test_a_task_of_likelihoods_takes_the_option_that_the_session_finds_likeliest(
    logged: dict[str, list[dict[str, Any]]],
    session: VideoPredictor,
    memories: dict[str, VideoMemory],
    asked: list[Asked],
) -> None:
    picked = set()
    for (video, question), sample in zip(
        asked, logged["simple egoschema_subset_mcppl"], strict=True
    ):
        options = [option.replace(".", "") for option in question.options]
        found = session.loglikelihood(
            memories[video], session.processor.ask(question.question), options
        )
        losses = [each.loss for each in found]
        assert [float(response[0]) for response in sample["filtered_resps"]] == pytest.approx(
            losses, rel=1e-6
        )
        assert sample["score"]["pred"] == losses.index(min(losses))
        picked.add(sample["score"]["pred"])
    assert len(picked) > 1


# The model alone


class Asking:
    """A `LitHour` with a task of one's own."""

    def __init__(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        from lit_hour.evaluation.lmms_eval.model import LitHour

        self.model = LitHour(run=str(run.path), checkpoint="last", device="cpu")
        self.shown: list[Any] = []
        self.read: list[list[Path]] = []
        self.model.task_dict = {"mine": {"test": self.shown}}
        remember = VideoPredictor.encode_video

        def watched(session: VideoPredictor, files: list[Path]) -> VideoMemory:
            self.read.append(files)
            return remember(session, files)

        monkeypatch.setattr(VideoPredictor, "encode_video", watched)

    def request(self, visual: Any, words: str, what: Any) -> Any:
        from lmms_eval.api.instance import Instance

        self.shown.append(visual)
        place = (len(self.shown) - 1, "mine", "test")
        metadata = {"task": "mine", "doc_id": place[0], "repeats": 1}
        return Instance(
            "generate_until", (words, what, lambda document: [document], *place), 0, metadata
        )


@pytest.fixture
def asking(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Asking:
    return Asking(run, monkeypatch)


def test_a_video_is_read_once_for_questions_that_follow_each_other(
    asking: Asking, toy: ToyProject
) -> None:
    one, other = (
        str(toy.yaml.parent / f"world/validation/videos/synthetic_0000{number}.mp4")
        for number in range(2)
    )
    requests = [
        asking.request(video, words, {})
        for video in (one, other)
        for words in ("Who?", "Where?", "When?")
    ]
    assert len(asking.model.generate_until(requests)) == 6
    assert asking.read == [[Path(one)], [Path(other)]]


def test_an_answer_is_as_long_as_the_task_says(
    asking: Asking, toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    video = str(toy.yaml.parent / "world/validation/videos/synthetic_00000.mp4")
    (long,) = asking.model.generate_until([asking.request(video, "Who?", {"max_new_tokens": 40})])
    (short,) = asking.model.generate_until([asking.request(video, "Who?", {"max_new_tokens": 12})])
    stop = long[5:7]
    (cut,) = asking.model.generate_until(
        [asking.request(video, "Who?", {"max_new_tokens": 40, "until": stop, "top": 1})]
    )
    assert long.startswith(short.rstrip("\ufffd")) and len(short) < len(long)
    assert cut == long.split(stop)[0]
    assert "task mine: top=1 has no effect" in caplog.text


def test_a_picture_is_that_of_its_file(
    asking: Asking, session: VideoPredictor, tmp_path: Path
) -> None:
    picture = Image.linear_gradient("L").resize((60, 90)).convert("RGB")
    picture.save(tmp_path / "picture.png")
    words = ("What?", "Where?")
    given = asking.model.generate_until(
        [asking.request(picture, word, {"max_new_tokens": 16}) for word in words]
    )
    assert len(asking.read) == 1
    memory = session.encode_video(tmp_path / "picture.png")
    assert given == [
        "".join(piece for piece in session.generate(memory, word) if isinstance(piece, str))
        for word in words
    ]


def test_what_it_cannot_do_is_refused(asking: Asking, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task mine asks for temperature=0.5"):
        asking.model.generate_until([asking.request("a.mp4", "Who?", {"temperature": 0.5})])
    with pytest.raises(VideoError, match=r"a\.mp4"):
        asking.model.generate_until([asking.request(str(tmp_path / "a.mp4"), "Who?", {})])
    with pytest.raises(NotImplementedError, match="task mine has several rounds"):
        asking.model.generate_until_multi_round([asking.request("a.mp4", "Who?", {})])
    unconditional = asking.request("a.mp4", "", "red")
    unconditional.arguments = unconditional.arguments[:2]
    with pytest.raises(NotImplementedError, match="acc_mutual_info"):
        asking.model.loglikelihood([unconditional])
