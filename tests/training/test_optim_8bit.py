"""8-bit averages: near the float32 ones, in checkpoints that both optimizers read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.errors import ConfigError
from lit_hour.training import optional_packages
from lit_hour.weights.reader import open_weights
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import ToyProject, load_weights, max_abs_difference
from tests.training.test_fsdp import OUTPUT_LAYER

WORDS = ("training.optimizer=adamw_8bit", "training.learning_rate.vision=0")
NEAR = 0.02  # five times the largest learning rate; weights move by about 0.02 in six steps


def test_missing_torchao_is_named_before_anything_is_written(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package torchao, .* pip install 'lit_hour\["):
        toy.fit("no-torchao", *WORDS)
    assert not toy.run_dir("no-torchao").path.exists()


@pytest.fixture
def eager() -> None:
    """Skip without torchao, and run its update without the compilation that each shape needs."""
    pytest.importorskip("torchao")
    torch.compiler.set_stance("force_eager")


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_8bit_run_learns_nearly_the_same_and_changes_to_the_other_optimizer(
    toy: ToyProject,
) -> None:
    toy.fit("averages-32", WORDS[1])
    toy.fit("averages-8", *WORDS, "training.max_steps=3", "training.schedule_steps=6")
    content = torch.load(toy.run_dir("averages-8").checkpoint("last"), weights_only=True)
    state = content["optimizer_states"][0]["state"]
    assert {type(one) for tensors in state.values() for one in tensors.values()} == {Tensor}
    toy.fit("averages-8", *WORDS, "training.max_steps=5", "training.schedule_steps=6")
    toy.fit("averages-8", WORDS[1], "training.schedule_steps=6")  # back to 32 bits
    expected = load_weights(toy.run_dir("averages-32"))
    difference = max_abs_difference(load_weights(toy.run_dir("averages-8")), expected)
    assert 0 < difference < NEAR
    moved = max_abs_difference(load_weights(toy.run_dir("averages-32"), "step=000002"), expected)
    assert difference < moved


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_8bit_averages_of_shards_are_resumed_by_others(toy: ToyProject, tmp_path: Path) -> None:
    words = (*WORDS, "training.strategy=fsdp", "training.schedule_steps=6")
    for num_ranks, num_steps in ((2, 3), (1, 6)):
        outputs = [tmp_path / f"{num_ranks}-{rank}.txt" for rank in range(num_ranks)]
        argv = (
            "shards-8",
            *words,
            f"training.max_steps={num_steps}",
            f"training.devices={num_ranks}",
        )
        ranks = fork_ranks(lambda rank: toy.fit(*argv), outputs)  # noqa: B023
        assert ranks.wait() == [0] * num_ranks, ranks.output()
    outputs = [tmp_path / "32.txt"]
    words = (WORDS[1], "training.strategy=fsdp", "training.devices=1")
    ranks = fork_ranks(lambda rank: toy.fit("shards-32", *words), outputs)
    assert ranks.wait() == [0], ranks.output()
    one, other = (
        dict(open_weights(toy.run_dir(name).checkpoint("last")).tensors())
        for name in ("shards-8", "shards-32")
    )
    for weights in (one, other):
        weights.pop(OUTPUT_LAYER, None)
    assert 0 < max_abs_difference(one, other) < NEAR
