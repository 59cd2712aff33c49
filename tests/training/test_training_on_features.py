"""Training on precomputed features equals training on frames, with the same encoder only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_hour.errors import ConfigError, WeightsError
from lit_hour.training import fit
from lit_hour.training.extract_features import extract_features
from lit_hour.types import Batch
from tests.helpers.toy_run import StepRecorder, ToyProject, TrainedRun, load_weights


class Losses(Callback):
    """Records the keys and the loss of each batch."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.keys += batch.keys
        self.losses.append(float(outputs["loss"]))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Losses]:
    """Return a function that attaches a new recorder to the next run."""
    build_callbacks = fit.build_callbacks

    def watch() -> Losses:
        watching = Losses()
        monkeypatch.setattr(
            fit, "build_callbacks", lambda *given: [*build_callbacks(*given), watching]
        )
        return watching

    return watch


def frozen(trained: TrainedRun, folder: Path, *overrides: str) -> list[str]:
    """Return overrides for a run on these shards with the frozen encoder of the finished run."""
    return [
        f"training.init_from={trained.run.path}",
        "training.learning_rate.vision=0",
        f"data.sources.world.shards={folder}",
        *overrides,
    ]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the Euclidean distance of all weights; AdamW moves weights with tiny gradients too."""
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


@pytest.fixture(scope="module")
def validation_features(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("validation") / "shards"
    extract_features(
        str(trained.project.yaml.parent / "world/validation/shards"), target, run=trained.run.path
    )
    return target


# An encoder trained for four steps fewer changes the losses by a thousandth. Weights are compared
# relative to how far training has moved them. Storing as bf16 changes a token by 0.16% of its norm.
@pytest.mark.parametrize(
    ("precision", "loss_tolerance", "weight_tolerance"),
    [("bf16", 1e-5, 5e-3), pytest.param("int8", 1e-4, 1e-2, marks=pytest.mark.slow)],
)
def test_training_on_features_matches_training_on_frames(
    frames: Path,
    features: Path,
    validation_features: Path,
    trained: TrainedRun,
    losses: Callable[[], Losses],
    tmp_path: Path,
    precision: str,
    loss_tolerance: float,
    weight_tolerance: float,
) -> None:
    source, validation = features, validation_features
    if precision == "int8":
        source = tmp_path / "int8"
        extract_features(
            str(frames / "shards"), source, ["features.precision=int8"], run=trained.run.path
        )
    seen, runs = (
        [],
        {
            "frames": [],
            f"features-{precision}": [f"data.val_sources.world.shards={validation}"],
        },
    )
    for (name, overrides), folder in zip(runs.items(), (frames / "shards", source), strict=True):
        seen.append(losses())
        trained.project.fit(
            f"on-{name}-{precision}",
            *frozen(trained, folder, "data.length_balance_window=3", *overrides),
        )
    on_frames, on_features = seen
    assert on_features.keys == on_frames.keys and len(set(on_frames.keys)) > 4
    torch.testing.assert_close(on_features.losses, on_frames.losses, rtol=loss_tolerance, atol=0)
    assert on_features.losses != on_frames.losses
    one, other = (load_weights(trained.project.run_dir(f"on-{name}-{precision}")) for name in runs)
    assert distance(one, other) < weight_tolerance * distance(one, load_weights(trained.run))
    scores = [
        EventAccumulator(str(trained.project.run_dir(f"on-{name}-{precision}").tensorboard))
        for name in runs
    ]
    for accumulator in scores:
        accumulator.Reload()
    before, after = (accumulator.Scalars("val/loss")[-1].value for accumulator in scores)
    assert after == pytest.approx(before, rel=loss_tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_run_trains_on_features(
    features: Path, validation_features: Path, trained: TrainedRun, precision: str
) -> None:
    overrides = frozen(
        trained,
        features,
        f"training.precision={precision}",
        f"data.val_sources.world.shards={validation_features}",
    )
    outcome = trained.project.fit(f"half-{precision}", *overrides, "training.max_steps=3")
    assert outcome.step == 3 and "val/loss" in outcome.scores
    outcome = trained.project.fit(
        f"half-{precision}", *overrides, "training.max_steps=4"
    )  # from a checkpoint
    assert outcome.step == 4


def test_features_of_another_encoder_are_refused_before_the_first_step(
    features: Path,
    validation_features: Path,
    trained: TrainedRun,
    toy: ToyProject,
    step_recorder: StepRecorder,
) -> None:
    other = [word for word in frozen(trained, features) if "init_from" not in word]
    message = r"The features in .*/000000\.tar were extracted with other .*Extract them again"
    with pytest.raises(WeightsError, match=message):
        toy.fit("strange", *other)
    validation = f"data.val_sources.world.shards={validation_features}"
    with pytest.raises(WeightsError, match=message):
        toy.fit("strange-validation", "training.learning_rate.vision=0", validation)
    assert step_recorder.positions == [] and not list(
        toy.run_dir("strange").checkpoints.glob("*.ckpt")
    )


@pytest.mark.slow
def test_features_are_checked_before_validation_without_training(
    features: Path, trained: TrainedRun, frames: Path
) -> None:
    overrides = frozen(
        trained, frames / "shards", "training.max_steps=2", "training.val_every_n_steps=2"
    )
    trained.project.fit("done", *overrides)
    file = trained.project.run_dir("done").checkpoint("last")
    state = torch.load(file, weights_only=True)
    name = next(name for name in state["state_dict"] if ".vision." in name)
    state["state_dict"][name] += 1
    torch.save(state, file)
    trained.project.run_dir("done").checkpoint("best").unlink()
    with pytest.raises(WeightsError, match="Extract them again"):
        trained.project.fit(
            "done",
            *overrides,
            f"data.val_sources.world.shards={features}",
            "data.on_data_change=warn",
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.vision.grid=4"],
            r"other settings than this run's: model\.vision\.grid was 2, is 4\. Set .* extract "
            r"features again",
        ),
        (["model.vision.tanh_gelu=false"], r"model\.vision\.tanh_gelu was True, is False"),
        (["video.max_frames=5"], r"video\.max_frames was 6, is 5"),
        (
            ["training.learning_rate.vision=1e-6"],
            r"after the first step with training\.learning_rate\.vision=1e-06\. Set it to 0",
        ),
    ],
)
def test_features_extracted_with_other_settings_are_refused(
    features: Path, trained: TrainedRun, toy: ToyProject, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{features}.*{message}"):
        toy.fit("door", *frozen(trained, features)[1:], *overrides)
    assert not toy.run_dir("door").checkpoints.exists()
