import io
import re

import pytest

from tests.helpers.toy_run import NUM_STEPS, StepRecorder, StoppedError, ToyProject, TrainedRun


def last_state(printed: str) -> str:
    """Return the final state of the last bar."""
    return re.split(r"[\r\n]+", printed[printed.rindex("training:") :])[0]


def test_progress_bar_counts_optimizer_steps_and_shows_loss_and_accuracy(
    trained: TrainedRun,
) -> None:
    shown = last_state(trained.output)
    assert f" {NUM_STEPS}/{NUM_STEPS} " in shown
    assert re.search(r"loss=\d+\.\d{3}, accuracy=[01]\.\d{3}", shown)
    assert "validating:" in trained.output


def test_progress_bar_of_a_resumed_run_starts_at_its_step(
    toy: ToyProject, step_recorder: StepRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_recorder.stop_after_batches = 9
    with pytest.raises(StoppedError):
        toy.fit("bar")
    step_recorder.stop_after_batches = None
    monkeypatch.setattr("sys.stdout", printed := io.StringIO())
    toy.fit("bar")
    assert re.search(r"training: +67%.* 4/6 ", printed.getvalue())
    assert f" {NUM_STEPS}/{NUM_STEPS} " in last_state(printed.getvalue())
