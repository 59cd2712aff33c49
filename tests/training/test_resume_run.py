"""Runs that are resumed: after a stop, a kill, their end, or with other settings."""

import shutil
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.config.load import load_config
from lit_hour.errors import RunError
from tests.helpers.toy_run import (
    NUM_STEPS,
    SAMPLES_PER_STEP,
    StepRecorder,
    StoppedError,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
    start_command,
)

EVERY_POSITION = list(range(NUM_STEPS * SAMPLES_PER_STEP))
PARTS = ("vision", "projector", "memaug", "llm")


@pytest.mark.parametrize(
    ("stops", "more"),
    [
        ([9], ()),
        pytest.param([9], ("data.num_workers=1",), marks=pytest.mark.slow),
        pytest.param([3, 6], ("data.num_workers=2",), marks=pytest.mark.slow),
        ([9, 1], ()),  # the second time in the middle of the step after the checkpoint
        ([6], ("training.val_every_n_steps=2",)),  # the best checkpoint is as new as the last
        ([7], ("training.save_every_n_steps=100",)),  # the best is the only checkpoint
    ],
)
def test_stopped_run_resumes_to_the_same_weights(
    trained: TrainedRun,
    step_recorder: StepRecorder,
    request: pytest.FixtureRequest,
    stops: list[int],
    more: tuple[str, ...],
) -> None:
    name = f"stopped-{request.node.callspec.id}"
    for batches in stops:
        step_recorder.positions, step_recorder.stop_after_batches = [], batches
        with pytest.raises(StoppedError):
            trained.project.fit(name, *more)
    step_recorder.stop_after_batches, step_recorder.positions = None, []
    run = trained.project.run_dir(name)
    newest = max(
        torch.load(file, weights_only=True)["global_step"]
        for file in run.checkpoints.glob("*.ckpt")
    )
    assert 0 < newest < NUM_STEPS
    outcome = trained.project.fit(name, *more)
    assert step_recorder.positions == EVERY_POSITION[newest * SAMPLES_PER_STEP :]
    assert outcome.step == NUM_STEPS
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0
    assert not list(run.checkpoints.glob("*-v*"))


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(trained: TrainedRun) -> None:
    run = trained.project.run_dir("killed-9")
    process = start_command(trained.project, "killed-9", "data.num_workers=1")
    while not run.checkpoints.joinpath("last.ckpt").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stopped_at = torch.load(run.checkpoint("last"), weights_only=True)["global_step"]
    assert 0 < stopped_at < NUM_STEPS
    printed = trained.project.train("killed-9")
    assert f"run {run.path}: resumes from {run.checkpoints}" in printed
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0


def test_tensorboard_of_a_resumed_run_has_no_gap(
    toy: ToyProject, step_recorder: StepRecorder
) -> None:
    for step_recorder.stop_after_batches in (9, None):
        step_recorder.positions = []
        try:
            toy.fit("curve")
        except StoppedError:
            continue
    accumulator = EventAccumulator(str(toy.run_dir("curve").tensorboard))
    accumulator.Reload()
    assert sorted({event.step for event in accumulator.Scalars("train/loss")}) == list(
        range(NUM_STEPS)
    )
    assert step_recorder.validated == [3, 6]


@pytest.mark.slow
def test_best_checkpoint_is_kept_across_a_resume(
    toy: ToyProject, step_recorder: StepRecorder
) -> None:
    """Each step ruins the model more, so the first validation is best."""
    ruin = [f"training.learning_rate.{part}=30" for part in PARTS]
    every_step = (
        "training.warmup_ratio=1",
        "training.val_every_n_steps=1",
        "training.save_every_n_steps=1",
        "training.max_steps=3",
    )
    step_recorder.stop_after_batches = 3
    with pytest.raises(StoppedError):
        toy.fit("ruined", *every_step, *ruin)
    step_recorder.stop_after_batches = None
    toy.fit("ruined", *every_step, *ruin)
    assert step_recorder.validated == [1, 2, 3]
    accumulator = EventAccumulator(str(toy.run_dir("ruined").tensorboard))
    accumulator.Reload()
    first, *others = (event.value for event in accumulator.Scalars("val/loss"))
    assert first < min(others)
    assert (
        torch.load(toy.run_dir("ruined").checkpoint("best"), weights_only=True)["global_step"] == 1
    )


def test_finished_run_logs_that_and_validates(
    trained: TrainedRun, step_recorder: StepRecorder
) -> None:
    copied = trained.project.run_dir("finished")
    shutil.copytree(trained.run.path, copied.path)
    printed = trained.project.train("finished", *trained.overrides)
    assert (
        f"Run {copied.path} has finished its {NUM_STEPS} steps. Raise training.max_steps" in printed
    )
    assert step_recorder.positions == [] and len(step_recorder.validated) == 1
    assert max_abs_difference(load_weights(copied), load_weights(trained.run)) == 0
    # The same scores and the same next commands.
    expected = trained.output.replace(str(trained.run.path), str(copied.path))
    assert printed.splitlines()[-6:] == expected.splitlines()[-6:]


@pytest.mark.parametrize("every_steps", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_finished_run_continues_with_more_steps(
    toy: ToyProject, step_recorder: StepRecorder, every_steps: int
) -> None:
    overrides = ("training.save_every_n_steps=" + str(every_steps),)
    for num_steps in (4, 6):
        outcome = toy.fit(f"longer-{every_steps}", *overrides, f"training.max_steps={num_steps}")
        assert outcome.step == num_steps
        assert (
            torch.load(outcome.run.checkpoint("last"), weights_only=True)["global_step"]
            == num_steps
        )
    assert step_recorder.positions == EVERY_POSITION
    assert step_recorder.validated == [3, 4, 6]  # the end of a run is always validated


def test_resume_with_another_batch_size_reads_the_next_samples(
    toy: ToyProject, step_recorder: StepRecorder
) -> None:
    step_recorder.stop_after_batches = 9
    with pytest.raises(StoppedError):
        toy.fit("regrouped")
    assert step_recorder.positions == EVERY_POSITION[:9]
    step_recorder.positions, step_recorder.stop_after_batches = [], None
    toy.fit("regrouped", "data.micro_batch_size=2")
    assert step_recorder.positions == EVERY_POSITION[8:]


def test_resume_with_another_model_is_refused_with_every_difference(
    trained: TrainedRun,
) -> None:
    other = (
        "model.llm.hidden_size=64",
        "text.vocab_size=500",
        "training.learning_rate.vision=0",
        "data.num_workers=1",
    )
    with pytest.raises(RunError) as refusal:
        trained.project.fit("whole", *other)
    message = str(refusal.value)
    assert str(trained.run.checkpoints) in message
    assert "model.llm.hidden_size was 32, is 64; text.vocab_size was 400, is 500" in message
    assert "training.learning_rate.vision was 0.001, is 0.0" in message
    assert "num_workers" not in message and "run.name=NAME" in message
    assert load_config(trained.run.config) == trained.config


def test_corrupt_checkpoint_is_refused_by_name(toy: ToyProject) -> None:
    run = toy.run_dir("damaged")
    run.checkpoints.mkdir(parents=True)
    file = run.checkpoints / "last.ckpt"
    file.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(
        RunError,
        match=r"Every checkpoint of .*/damaged is corrupt \(.*last\.ckpt is corrupt or not",
    ):
        toy.fit("damaged")
