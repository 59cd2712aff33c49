"""lmms-eval runs its own tasks, unchanged, with a toy run on synthetic videos.

`make test-lmms` runs these tests in an environment with lmms-eval (constraints.txt).
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
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.run_dir import RunDir
from lit_hour.text.answer_matching import label_options
from lit_hour.text.chat_template import format_question
from lit_hour.types import Question
from tests import REPOSITORY

if TYPE_CHECKING:
    from tests.helpers.toy_run import ToyProject

if find_spec("lmms_eval") is None:
    pytest.skip("lmms_eval is not installed: run make test-lmms", allow_module_level=True)
if not entry_points(group="lmms_eval.models", name="lit_hour"):
    pytest.skip("lit_hour is not installed: pip install --no-deps -e .", allow_module_level=True)

NUM_QUESTIONS = 4  # about each of two videos
MLVU_POST_PROMPT = "\nOnly give the best option.\nBest option: ("  # of the task
EGOSCHEMA_CARD = """---
configs:
- config_name: Subset
  data_files:
  - split: test
    path: test.jsonl
---
"""
RANDOM_MODEL = (
    "model.llm.initializer_range=0.5",
    "model.llm.tie_word_embeddings=false",
    "training.max_steps=1",
    "training.save_every_n_steps=1",
    "training.val_every_n_steps=1",
)
Doc = tuple[str, Question]  # the name of a video, and a question about it


@pytest.fixture(scope="module")
def run(toy: ToyProject) -> RunDir:
    """A run with nearly random weights, which responds differently to each question."""
    toy.train("random_run", *RANDOM_MODEL)
    return toy.run_dir("random_run")


@pytest.fixture(scope="module")
def videos(toy: ToyProject) -> Path:
    return toy.yaml.parent / "world/validation/videos"


@pytest.fixture(scope="module")
def docs(videos: Path) -> list[Doc]:
    """Multiple-choice questions about the first video, then about the second."""
    found: dict[str, list[Doc]] = {}
    for record in json.loads((videos.parent / "questions.json").read_text()):
        of_video = found.setdefault(record["video"], [])
        if len(record.get("options", ())) > 1 and len(of_video) < NUM_QUESTIONS:
            of_video.append((record["video"], parse_question(record, "questions.json")))
    assert [len(of_video) for of_video in found.values()] == [NUM_QUESTIONS] * 2
    return [doc for of_video in found.values() for doc in of_video]


@pytest.fixture(scope="module")
def folder(videos: Path, docs: list[Doc], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets of two tasks of lmms-eval under their names on the hub."""
    folder = tmp_path_factory.mktemp("lmms_eval")
    for name, cache, records, card in (
        ("sy1998/MLVU_dev", "mlvu", [as_mlvu(*doc) for doc in docs], ""),
        (
            "lmms-eval/egoschema",
            "egoschema/videos",
            [as_egoschema(*doc) for doc in docs],
            EGOSCHEMA_CARD,
        ),
    ):
        (folder / name).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / name / "test.jsonl").write_text(lines)
        (folder / name / "README.md").write_text(card)
        shutil.copytree(videos, folder / "hub" / cache)
    return folder


def as_mlvu(video: str, question: Question) -> dict[str, Any]:
    return {
        "video_name": video,
        "question": format_question(question, "letter"),
        "answer": question.answer_letter,
        "task_type": "count",
    }


def mlvu_prompt(question: Question) -> str:
    return format_question(question, "letter") + MLVU_POST_PROMPT


def as_egoschema(video: str, question: Question) -> dict[str, Any]:
    options = label_options(question.options).items()
    return {
        "video_idx": Path(video).stem,
        "question": question.question,
        "option": [f"{letter}. {text.replace('.', '')}" for letter, text in options],
        "answer": str(question.options.index(question.answer)),
    }


@pytest.fixture(scope="module")
def samples(folder: Path, run: RunDir) -> dict[str, list[dict[str, Any]]]:
    """The samples that lmms-eval logs, by "chat" or "simple" and task; both run side by side."""
    processes = {
        "chat": start_lmms_eval(folder, run, "chat", "mlvu_dev"),
        "simple": start_lmms_eval(
            folder, run, "simple", "mlvu_dev,egoschema_subset_mcppl", "--force_simple"
        ),
    }
    found = {}
    for kind, process in processes.items():
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        logs = list((folder / kind).rglob("*_samples_*.jsonl"))
        assert logs, printed  # lmms-eval exits with 0 on some errors
        for log in logs:
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            task = log.stem.split("_samples_")[1]
            found[f"{kind} {task}"] = sorted(lines, key=lambda sample: sample["doc_id"])
    return found


def start_lmms_eval(
    folder: Path, run: RunDir, output: str, tasks: str, *more: str
) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        *("-m", "lmms_eval"),
        *("--model", "lit_hour"),
        *("--model_args", f"run={run.path},checkpoint=last,device=cpu"),
        *("--tasks", tasks),
        "--log_samples",
        *("--output_path", output),
        *more,
    ]
    environment = os.environ | {
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def predictor(run: RunDir) -> VideoPredictor:
    """The run itself, with max_new_tokens of the task mlvu_dev."""
    return VideoPredictor.from_run(run.path, "last", "cpu", ["generation.max_new_tokens=16"])


@pytest.fixture(scope="module")
def memories(predictor: VideoPredictor, videos: Path, docs: list[Doc]) -> dict[str, VideoMemory]:
    return {name: predictor.encode_video(videos / name) for name in {video for video, _ in docs}}


@pytest.fixture(scope="module")
def expected(
    predictor: VideoPredictor, memories: dict[str, VideoMemory], docs: list[Doc]
) -> list[str]:
    """The predictor's responses to the prompts of mlvu_dev."""
    responses = []
    for video, question in docs:
        *_, answer = predictor.generate(memories[video], mlvu_prompt(question))
        assert isinstance(answer, Answer)
        responses.append(answer.text.split("\n\n")[0].strip())  # lmms-eval strips its logs
    assert len(set(responses)) > 2
    return responses


# lmms-eval as a whole


@pytest.mark.parametrize("kind", ["chat", "simple"])
def test_generation_tasks_get_the_responses_of_the_predictor(
    kind: str, samples: dict[str, list[dict[str, Any]]], docs: list[Doc], expected: list[str]
) -> None:
    logged = samples[f"{kind} mlvu_dev"]
    assert [sample["input"] for sample in logged] == [mlvu_prompt(question) for _, question in docs]
    assert [sample["filtered_resps"] for sample in logged] == expected


def test_likelihood_tasks_get_the_losses_of_the_predictor(
    samples: dict[str, list[dict[str, Any]]],
    predictor: VideoPredictor,
    memories: dict[str, VideoMemory],
    docs: list[Doc],
) -> None:
    chosen = set()
    for (video, question), sample in zip(
        docs, samples["simple egoschema_subset_mcppl"], strict=True
    ):
        options = [option.replace(".", "") for option in question.options]
        conversation = predictor.processor.build_prompt(question.question)
        results = predictor.loglikelihood(memories[video], conversation, options)
        losses = [result.loss for result in results]
        logged = [float(resp[0]) for resp in sample["filtered_resps"]]
        assert logged == pytest.approx(losses, rel=1e-6)
        assert sample["score"]["pred"] == losses.index(min(losses))
        chosen.add(sample["score"]["pred"])
    assert len(chosen) > 1


# The model class


class ToyTask:
    """A `LitHour` model with a task of its own; `encoded` lists the files of each encoding."""

    def __init__(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        from lit_hour.evaluation.lmms_eval.model import LitHour

        self.model = LitHour(run=str(run.path), checkpoint="last", device="cpu")
        self.visuals: list[Any] = []
        self.encoded: list[list[Path]] = []
        self.model.task_dict = {"toy": {"test": self.visuals}}
        encode_video = VideoPredictor.encode_video

        def recorded(predictor: VideoPredictor, files: list[Path]) -> VideoMemory:
            self.encoded.append(files)
            return encode_video(predictor, files)

        monkeypatch.setattr(VideoPredictor, "encode_video", recorded)

    def request(self, visual: Any, context: str, values: Any) -> Any:
        from lmms_eval.api.instance import Instance

        self.visuals.append(visual)
        location = (len(self.visuals) - 1, "toy", "test")
        metadata = {"task": "toy", "doc_id": location[0], "repeats": 1}
        arguments = (context, values, lambda doc: [doc], *location)
        return Instance("generate_until", arguments, 0, metadata)


@pytest.fixture
def task(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> ToyTask:
    return ToyTask(run, monkeypatch)


def test_a_video_is_encoded_once_for_consecutive_questions(task: ToyTask, videos: Path) -> None:
    first, second = sorted(videos.glob("*.mp4"))[:2]
    requests = [
        task.request(str(video), text, {})
        for video in (first, second)
        for text in ("Who?", "Where?", "When?")
    ]
    assert len(task.model.generate_until(requests)) == 6
    assert task.encoded == [[first], [second]]


def test_generation_kwargs_limit_the_response(
    task: ToyTask, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = str(min(videos.glob("*.mp4")))

    def generate(**values: Any) -> str:
        return task.model.generate_until([task.request(video, "Who?", values)])[0]

    long, short = generate(max_new_tokens=40), generate(max_new_tokens=12)
    stop = long[5:7]
    assert long.startswith(short.rstrip("\ufffd")) and len(short) < len(long)
    assert generate(max_new_tokens=40, until=stop, top=1) == long.split(stop)[0]
    assert "Task toy: top=1 has no effect" in caplog.text


def test_an_image_gives_the_responses_of_its_file(
    task: ToyTask, predictor: VideoPredictor, tmp_path: Path
) -> None:
    image = Image.linear_gradient("L").resize((60, 90)).convert("RGB")
    image.save(tmp_path / "image.png")
    questions = ("What?", "Where?")
    requests = [task.request(image, question, {"max_new_tokens": 16}) for question in questions]
    responses = task.model.generate_until(requests)
    assert len(task.encoded) == 1
    memory = predictor.encode_video(tmp_path / "image.png")
    for question, response in zip(questions, responses, strict=True):
        *_, answer = predictor.generate(memory, question)
        assert isinstance(answer, Answer) and response == answer.text


def test_unsupported_requests_are_refused(task: ToyTask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Task toy requests temperature=0.5"):
        task.model.generate_until([task.request("a.mp4", "Who?", {"temperature": 0.5})])
    with pytest.raises(VideoError, match=r"a\.mp4"):
        task.model.generate_until([task.request(str(tmp_path / "a.mp4"), "Who?", {})])
    with pytest.raises(NotImplementedError, match="Task toy has several rounds"):
        task.model.generate_until_multi_round([task.request("a.mp4", "Who?", {})])
    unconditional = task.request("a.mp4", "", "red")
    unconditional.arguments = unconditional.arguments[:2]
    with pytest.raises(NotImplementedError, match="acc_mutual_info"):
        task.model.loglikelihood([unconditional])
