import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_hour.errors import DivergenceError
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch
from tests.helpers.toy_run import (
    NUM_STEPS,
    StepRecorder,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
)
from tests.training.fork_run import fork_run

Poison = Callable[[Tensor], Tensor]


def nan_loss(loss: Tensor) -> Tensor:
    return loss * math.nan  # ()


def infinite_gradient(loss: Tensor) -> Tensor:
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


def poison(position: int, how: Poison = nan_loss) -> Callable[[], None]:
    """Return a function that makes the loss or gradient of the sample at a position non-finite."""

    def prepare() -> None:
        training_step = HourLLaVAModule.training_step

        def poisoned(module: HourLLaVAModule, batch: Batch, batch_idx: int) -> dict[str, Any]:
            outputs = training_step(module, batch, batch_idx)
            if position in batch.positions:
                outputs["loss"] = how(outputs["loss"])
            return outputs

        HourLLaVAModule.training_step = poisoned  # type: ignore[method-assign]

    return prepare


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HourLLaVAModule, "training_step", HourLLaVAModule.training_step)


def curve(toy: ToyProject, name: str, tag: str) -> dict[int, float]:
    accumulator = EventAccumulator(str(toy.run_dir(name).tensorboard))
    accumulator.Reload()
    return {event.step: event.value for event in accumulator.Scalars(tag)}


@pytest.mark.parametrize(("how", "position"), [(nan_loss, 6), (infinite_gradient, 7)])
def test_nonfinite_step_without_budget_stops_the_run_and_saves_the_batch(
    trained: TrainedRun,
    step_recorder: StepRecorder,
    how: Poison,
    position: int,
    request: pytest.FixtureRequest,
) -> None:
    name = f"poisoned-{position}"
    untouched = HourLLaVAModule.training_step
    poison(position, how)()
    with pytest.raises(
        DivergenceError, match=r"^Step 4 has .*training\.max_skipped_steps=0\."
    ) as stop:
        trained.project.fit(name)
    run = trained.project.run_dir(name)
    assert str(run.nonfinite_batches) in str(stop.value)
    assert [file.name for file in sorted(run.nonfinite_batches.iterdir())] == [
        f"step=000004-rank=0000-0.{end}" for end in ("json", "safetensors")
    ]
    record = json.loads((run.nonfinite_batches / "step=000004-rank=0000-0.json").read_text())
    tensors = load_file(run.nonfinite_batches / "step=000004-rank=0000-0.safetensors")
    assert (
        record["positions"] == [position]
        and record["step"] == 4
        and record["gradient_norm"] == "nan"
    )
    assert len(record["keys"]) == 1 and record["questions"][0][0]["question"]
    assert tensors["input_ids"].shape == tensors["labels"].shape == tensors["attention_mask"].shape
    assert (
        tensors["visuals.0.images"].shape[1:] == (3, 64, 64)
        and len(tensors["visuals.0.timestamps"]) >= 4
    )

    HourLLaVAModule.training_step = untouched  # type: ignore[method-assign]  # the cause is gone
    step_recorder.positions = []
    trained.project.fit(name)
    assert step_recorder.positions == [6, 7, 8, 9, 10, 11]
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0


def test_nonfinite_step_within_budget_is_skipped_and_counted(toy: ToyProject) -> None:
    poison(5)()
    toy.fit(
        "lenient",
        "training.max_skipped_steps=1",
        "training.save_every_n_steps=1",
        "training.save_total_limit=9",
    )
    before, after, last = (
        load_weights(toy.run_dir("lenient"), name)
        for name in ("step=000002", "step=000003", "last")
    )
    assert max_abs_difference(before, after) == 0 < max_abs_difference(after, last)
    assert all(bool(weight.isfinite().all()) for weight in last.values())
    assert list(curve(toy, "lenient", "train/skipped_steps").values()) == [0, 0, 1, 1, 1, 1]
    assert not toy.run_dir("lenient").nonfinite_batches.exists()


def test_skipped_steps_are_counted_across_restarts(toy: ToyProject) -> None:
    poison(5)()
    toy.fit("counted", "training.max_skipped_steps=1", "training.max_steps=4")
    poison(9)()
    with pytest.raises(DivergenceError, match=r"^Step 5 has .* 2 steps had one"):
        toy.fit("counted", "training.max_skipped_steps=1")


@pytest.mark.slow
def test_nonfinite_loss_of_one_rank_is_skipped_by_all_ranks(toy: ToyProject) -> None:
    overrides = ("training.max_skipped_steps=1", "training.gradient_clip_norm=0")
    # Position 5 is the second rank's sample of step 3.
    run = fork_run(toy, "one-rank", *overrides, num_ranks=2, prepare=poison(5))
    assert run.wait() == [0, 0]
    assert (
        "Skipped step 3: its loss or gradient is not finite (1 of at most 1 steps)." in run.output()
    )
    poison(5)()
    toy.fit("alone", *overrides)
    assert (
        max_abs_difference(
            load_weights(toy.run_dir("one-rank")), load_weights(toy.run_dir("alone"))
        )
        < 1e-5
    )
    assert curve(toy, "one-rank", "train/skipped_steps")[NUM_STEPS - 1] == 1


@pytest.mark.slow
def test_only_the_rank_with_the_nonfinite_loss_saves_its_batch(toy: ToyProject) -> None:
    run = fork_run(toy, "two-stop", num_ranks=2, prepare=poison(5))
    assert run.wait() == [1, 1]
    assert all(
        "error: Step 3 has a non-finite loss or gradient" in run.output(rank) for rank in (0, 1)
    )
    saved: list[Path] = sorted(toy.run_dir("two-stop").nonfinite_batches.iterdir())
    assert [file.stem for file in saved] == ["step=000003-rank=0001-0"] * 2
    assert (
        torch.load(toy.run_dir("two-stop").checkpoint("last"), weights_only=True)["global_step"]
        == 2
    )
