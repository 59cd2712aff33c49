"""Four ranks as two replicas of two shards learn what one process learns, also resumed by others.

Offloaded weights are rehearsed on CPUs, where they are as they would be without offloading.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from lit_hour.errors import ConfigError
from lit_hour.weights.reader import open_weights
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import ToyProject, max_abs_difference, toy_settings
from tests.training.test_fsdp import FIVE_DIGITS, OUTPUT_LAYER

SHARDED = "training.strategy=fsdp"
# A frozen part, several learning rates, clipping; no validation, which has fewer videos than ranks.
LEARNING = (
    "training.learning_rate.vision=0",
    "training.gradient_clip_norm=0.5",
    "data.global_batch_size=4",
)
LAYOUTS = {  # ranks, replicas
    "one": (1, 1),
    "shards": (4, 1),
    "replicas": (4, 2),
    "copies": (2, 2),  # each rank has a whole model
}


@pytest.fixture(scope="module")
def project(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    values = toy_settings(toy.yaml.parent / "world")
    values["data"]["val_sources"] = {}
    return ToyProject.write(tmp_path_factory.mktemp("hsdp"), values)


@pytest.fixture(scope="module")
def begin(project: ToyProject) -> str:
    """The weights that all runs start from: random ones depend on the strategy."""
    return f"training.init_from={project.fit('base', 'training.max_steps=1').run.path}"


def train(project: ToyProject, name: str, layout: str, num_steps: int, *more: str) -> None:
    num_ranks, replicas = LAYOUTS[layout]
    words = (
        *LEARNING,
        SHARDED,
        f"training.devices={num_ranks}",
        f"training.replicas={replicas}",
        f"training.max_steps={num_steps}",
        "training.schedule_steps=4",
        *more,
    )
    project.runs.mkdir(exist_ok=True)
    outputs = [project.runs / f"{name}-{num_steps}-{rank}.txt" for rank in range(num_ranks)]
    ranks = fork_ranks(lambda rank: project.fit(name, *words), outputs)
    statuses = ranks.wait()
    assert statuses == [0] * num_ranks, "\n".join(map(ranks.output, range(num_ranks)))


def weights(project: ToyProject, name: str, checkpoint: str = "last") -> dict[str, Tensor]:
    stored = dict(open_weights(project.run_dir(name).checkpoint(checkpoint)).tensors())
    return {name: weight for name, weight in stored.items() if name != OUTPUT_LAYER}


@pytest.fixture(scope="module")
def expected(project: ToyProject, begin: str) -> dict[str, Tensor]:
    """Weights of a run of one process without FSDP that learns enough for a comparison."""
    project.fit("plain", begin, *LEARNING, "training.max_steps=4")
    found = weights(project, "plain")
    assert max_abs_difference(weights(project, "plain", "step=000002"), found) > 10 * FIVE_DIGITS
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("replicas", "replicas"),
        ("shards", "replicas"),
        ("replicas", "shards"),
        ("replicas", "one"),
        ("one", "replicas"),
        ("copies", "copies"),
    ],
)
def test_any_change_of_replicas_reaches_the_weights_of_one_process(
    project: ToyProject, begin: str, expected: dict[str, Tensor], before: str, after: str
) -> None:
    name = f"{before}-{after}"
    train(project, name, before, 2, begin)
    train(project, name, after, 4, begin)
    assert max_abs_difference(weights(project, name), expected) < FIVE_DIGITS


@pytest.mark.slow
def test_replicas_resume_the_checkpoint_file_of_one_process_and_write_each_tensor_once(
    project: ToyProject, begin: str, expected: dict[str, Tensor]
) -> None:
    of, to = project.run_dir("plain"), project.run_dir("from-file")
    shutil.copytree(of.tokenizer, to.tokenizer)
    to.checkpoints.mkdir()
    for file in of.checkpoints.glob("step=000002.*"):
        shutil.copyfile(file, to.checkpoints / file.name)
    train(project, "from-file", "replicas", 4, begin, "training.async_checkpoints=true")
    assert max_abs_difference(weights(project, "from-file"), expected) < FIVE_DIGITS
    train(project, "sizes", "shards", 2, begin)
    sizes = [
        sum(
            file.stat().st_size for file in project.run_dir(name).checkpoint().glob("*.safetensors")
        )
        for name in ("from-file", "sizes")
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.slow
def test_offloaded_run_learns_the_same(
    project: ToyProject, begin: str, expected: dict[str, Tensor]
) -> None:
    for num_steps in (2, 4):
        train(project, "offloaded", "replicas", num_steps, begin, "training.cpu_offload=true")
    assert max_abs_difference(weights(project, "offloaded"), expected) < FIVE_DIGITS


def test_replicas_that_cannot_share_the_ranks_are_refused(
    project: ToyProject, tmp_path: Path
) -> None:
    outputs = [tmp_path / "0.txt"]
    words = (SHARDED, "training.replicas=3", "training.devices=1")
    ranks = fork_ranks(lambda rank: project.fit("uneven", *words), outputs)
    assert ranks.wait() == [1]
    assert "training.replicas=3 cannot share 1 ranks evenly. Set a divisor" in ranks.output()


@pytest.mark.parametrize("word", ["training.replicas=2", "training.cpu_offload=true"])
def test_settings_of_sharded_runs_are_refused_in_others(project: ToyProject, word: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{word} needs a sharded model, not training\.strategy="
    ):
        project.config("none", word)
