"""The real parts of conf/small.yaml: features, training, resume, answers, evaluation, serving."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.cli.main import main
from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.packaged_weights import PACKAGED_WEIGHTS, find_packaged_weights
from lit_hour.weights.efficientnet import read_efficientnet
from lit_hour.weights.gguf_llm import open_gguf_weights
from tests import CONF
from tests.helpers.small_parts import needs_small
from tests.helpers.toy_run import ToyProject, load_weights, max_abs_difference
from tests.media.helpers import numbered_images, write_video
from tests.server.helpers import run_server

pytestmark = [needs_small, pytest.mark.slow]
QUESTION = "Which number do the stripes show?"
NUM_STEPS = 4
TINY_MEMORY = ["model.memaug.num_layers=1", "model.memaug.min_frames=4", "video.min_frames=4"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """Feature shards of three clips, and conf/small.yaml with them as its data."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "videos").mkdir()
    records: list[dict[str, object]] = []
    for start in (3, 90, 200):
        images = [image for image in numbered_images(start + 8)[start:] for _ in range(10)]
        write_video(folder / f"videos/{start}.mp4", images)
        options = ["3", "90", "200", "12"]
        records.append({"video": f"{start}.mp4", "question": QUESTION, "answer": str(start)})
        records.append({**records[-1], "options": options})
    (folder / "questions.json").write_text(json.dumps(records))
    frames, features = str(folder / "frames"), str(folder / "features")
    settings = ["-c", str(CONF / "small.yaml")]
    videos, questions = str(folder / "videos"), str(folder / "questions.json")
    main(["pack", videos, questions, frames, *settings, *TINY_MEMORY, "pack.num_workers=1"])
    main(["extract-features", frames, features, *settings, *TINY_MEMORY, "data.num_workers=0"])
    values = {
        "compose": [str(CONF / "small.yaml")],
        "video": {"min_frames": 4},
        "data": {
            "sources": {"clips": {"shards": features}},
            "val_sources": {"clips": {"shards": features}},
            "global_batch_size": 2,
            "num_workers": 0,
        },
        "model": {"memaug": {"num_layers": 1, "min_frames": 4}},
        "training": {
            "max_steps": NUM_STEPS,
            "schedule_steps": NUM_STEPS,
            "val_every_n_steps": NUM_STEPS,
            "save_every_n_steps": 2,
            "save_total_limit": 1,
            "num_val_images": 0,
        },
        "generation": {"max_new_tokens": 4},
    }
    return ToyProject.write(folder, values)


@pytest.fixture(scope="module")
def trained(project: ToyProject) -> Iterator[ToyProject]:
    project.train("straight")
    yield project
    shutil.rmtree(project.run_dir("straight").path)


@pytest.fixture
def run_name(project: ToyProject) -> Iterator[str]:
    """The name of a run that is removed after the test: its checkpoints take 2 to 3 GB."""
    yield "of_one_test"
    shutil.rmtree(project.run_dir("of_one_test").path)


def frozen_parts() -> dict[str, Tensor]:
    """Return the weights of both packages, by their names in a checkpoint."""
    tower, llm = (find_packaged_weights(name, "test") for name in PACKAGED_WEIGHTS)
    frozen = {
        f"model.{name}": weight
        for name, weight in read_efficientnet(tower).items()
        if name.startswith("vision.")
    }
    frozen |= {
        f"model.llm.network.{name}": weight for name, weight in open_gguf_weights(llm).tensors()
    }
    return frozen


def test_projector_and_memaug_learn_and_the_packages_weights_stay(trained: ToyProject) -> None:
    weights, frozen = load_weights(trained.run_dir("straight")), frozen_parts()
    learned = weights.keys() - frozen.keys()
    assert {name.split(".")[1] for name in learned} == {
        "frame_newline",
        "memaug",
        "projector",
        "llm",  # the output layer, which is the embedding
    }
    assert [name for name in learned if ".llm." in name] == ["model.llm.network.lm_head.weight"]
    for name, weight in frozen.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.exhaustive
def test_resumed_run_equals_one_that_was_not_interrupted(
    trained: ToyProject, run_name: str
) -> None:
    trained.train(run_name, "training.max_steps=2")
    trained.train(run_name)
    ends = [load_weights(trained.run_dir(name)) for name in ("straight", run_name)]
    assert max_abs_difference(*ends) == 0


def test_run_answers_evaluates_and_serves(
    trained: ToyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = trained.run_dir("straight"), trained.yaml.parent
    clip = folder / "videos/90.mp4"
    main(["ask", str(clip), QUESTION, "--run", str(run.path)])
    answer, statistics = capsys.readouterr().out.strip("\n").rsplit("\n", 1)
    assert statistics.startswith("[8 frames, 136 tokens in memory; decode ")
    questions = [
        f"evaluation.questions={folder}/questions.json",
        f"evaluation.videos={folder}/videos",
    ]
    out = ["--run", str(run.path), "--out", str(tmp_path / "out")]
    main(["evaluate", "evaluation.benchmark=custom", *questions, *out])
    assert json.loads((tmp_path / "out/report.json").read_text())["score"]["num_evaluated"] == 6
    predictor = VideoPredictor.from_run(run.path)
    *_, direct = predictor.generate(predictor.encode_video(clip), QUESTION)
    assert isinstance(direct, Answer) and direct.text == answer
    with run_server(predictor, ServerConfig(max_videos=2), [folder]) as server:
        opened = server.post("/v1/videos/open", clip.as_uri()).json()["id"]
        assert server.wait_until_finished(opened)["status"] == "ready"


@pytest.mark.parametrize(
    "part",
    [
        "adapters",
        pytest.param("language model", marks=pytest.mark.exhaustive),
        pytest.param("vision encoder", marks=pytest.mark.exhaustive),
    ],
)
def test_other_parts_may_learn(project: ToyProject, part: str, run_name: str) -> None:
    overrides = {
        "adapters": ["model.llm.lora.rank=2", "training.learning_rate.llm=0.01"],
        "language model": ["training.learning_rate.llm=0.001"],
        "vision encoder": [
            "training.learning_rate.vision=0.001",
            f"data.sources.clips.shards={project.yaml.parent}/frames",
            f"data.val_sources.clips.shards={project.yaml.parent}/frames",
        ],
    }[part]
    project.train(run_name, *overrides, "training.max_steps=1", "training.schedule_steps=1")
    weights, frozen = load_weights(project.run_dir(run_name)), frozen_parts()
    changed = {
        name
        for name, weight in frozen.items()
        if name in weights and not torch.equal(weights[name], weight)
    }
    if part == "adapters":
        adapters = [weight for name, weight in weights.items() if ".lora_B." in name]
        assert not changed and len(adapters) == 7 * 30 and any(map(torch.any, adapters))
    else:
        prefix = "model.llm." if part == "language model" else "model.vision."
        assert len(changed) > 100 and all(name.startswith(prefix) for name in changed)
        assert not any("running_" in name for name in changed)  # statistics of batch norms


def test_exported_run_is_imported_with_the_same_answers(
    project: ToyProject, run_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["model.llm.lora.rank=4", "training.learning_rate.llm=0.01"]
    project.train(run_name, *overrides, "training.max_steps=1", "training.schedule_steps=1")
    run, file = project.run_dir(run_name).path, tmp_path / "small.safetensors"
    main(["export-small", str(run), str(file)])
    assert "8 bits" in capsys.readouterr().out
    main(["import-small", str(file), str(tmp_path / "imported")])
    answers = []
    for source in (run, tmp_path / "imported"):
        predictor = VideoPredictor.from_run(source)
        memory = predictor.encode_video(project.yaml.parent / "videos/90.mp4")
        prompt = predictor.processor.build_prompt(QUESTION)
        answers.append(predictor.loglikelihood(memory, prompt, ["90", "a hammer"]))
    for before, after in zip(*answers, strict=True):
        assert after.log_probability == pytest.approx(before.log_probability, abs=0.3)
    with pytest.raises(WeightsError, match="exists and is not empty"):
        main(["import-small", str(file), str(tmp_path / "imported")])
    with pytest.raises(WeightsError, match="Name a new"):
        main(["export-small", str(run), str(file)])
    with pytest.raises(WeightsError, match="more than rank 1"):
        main(["export-small", str(run), str(tmp_path / "one.safetensors"), "--rank", "1"])


def test_features_of_another_size_are_refused(project: ToyProject) -> None:
    with pytest.raises(ConfigError, match=r"Set video\.image_size=224"):
        project.train("size", "video.image_size=128")
