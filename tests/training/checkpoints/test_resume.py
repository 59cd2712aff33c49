import logging
import shutil
from pathlib import Path

import pytest

from lit_hour.errors import RunError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.resume import find_resume_point
from tests.helpers.toy_run import StepRecorder, TrainedRun, load_weights, max_abs_difference


@pytest.fixture
def copied(trained: TrainedRun, tmp_path: Path) -> RunDir:
    """A finished run that a test may damage."""
    return RunDir(shutil.copytree(trained.run.path, trained.project.runs / tmp_path.name))


def cut(file: Path) -> None:
    """Lose the second half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_new_run_starts_from_the_beginning_with_a_reason(tmp_path: Path) -> None:
    beginning = find_resume_point(RunDir(tmp_path))
    assert (beginning.checkpoint, beginning.step) == (None, 0)
    assert (
        beginning.description
        == f"starts from the beginning: there is no checkpoint in {tmp_path}/checkpoints"
    )


def test_newest_checkpoint_is_chosen_and_described(copied: RunDir) -> None:
    beginning = find_resume_point(copied)
    assert beginning.checkpoint in (copied.checkpoint("best"), copied.checkpoint("last"))
    assert beginning.description == f"resumes from {beginning.checkpoint}, step 6: the newest of 5"
    for name in ("best", "last", "step=000006"):
        copied.checkpoint(name).unlink()
    assert (
        find_resume_point(copied).description
        == f"resumes from {copied.checkpoint('step=000004')}, step 4: the newest of 2"
    )


def test_corrupt_checkpoint_is_skipped_with_a_warning(
    copied: RunDir,
    trained: TrainedRun,
    step_recorder: StepRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("best", "last", "step=000006"):
        cut(copied.checkpoint(name))
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        assert find_resume_point(copied).checkpoint == copied.checkpoint("step=000004")
    (warning,) = (record.getMessage() for record in caplog.records)
    for name in ("best", "last", "step=000006"):
        assert f"{copied.checkpoint(name)} is corrupt" in warning
    assert (
        f"Resuming from {copied.checkpoint('step=000004')} (step 4), the newest intact checkpoint."
        in warning
    )
    trained.project.fit(copied.path.name)
    assert step_recorder.positions == [8, 9, 10, 11]
    assert max_abs_difference(load_weights(copied), load_weights(trained.run)) == 0


def test_run_with_only_corrupt_checkpoints_is_refused(copied: RunDir) -> None:
    files = list(copied.checkpoints.glob("*.ckpt"))
    for file in files:
        cut(file)
    with pytest.raises(
        RunError, match="Restore a copy of one, or delete them to start over"
    ) as refusal:
        find_resume_point(copied)
    assert all(f"{file} is corrupt" in str(refusal.value) for file in files)


def test_converted_model_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/converted").mkdir(parents=True)
    with pytest.raises(RunError, match=rf"holds a converted model.*training\.init_from={tmp_path}"):
        find_resume_point(RunDir(tmp_path))
