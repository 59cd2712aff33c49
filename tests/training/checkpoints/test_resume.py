import logging
import shutil
from pathlib import Path

import pytest

from lit_hour.errors import RunError
from lit_hour.run_dir import RunFolder
from lit_hour.training.checkpoints.resume import choose_beginning
from tests.small_run import Trained, Watch, largest_difference, weights


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> RunFolder:
    """A finished run that a test may damage."""
    return RunFolder(shutil.copytree(trained.run.path, trained.small.runs / tmp_path.name))


def cut(file: Path) -> None:
    """Lose the second half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_a_first_start_begins_at_the_beginning_and_says_why(tmp_path: Path) -> None:
    beginning = choose_beginning(RunFolder(tmp_path))
    assert (beginning.checkpoint, beginning.step) == (None, 0)
    assert (
        str(beginning)
        == f"starts from the beginning: there is no checkpoint in {tmp_path}/checkpoints"
    )


def test_the_newest_checkpoint_is_chosen_and_said(copied: RunFolder) -> None:
    beginning = choose_beginning(copied)
    assert beginning.checkpoint in (copied.checkpoint("best"), copied.checkpoint("last"))
    assert str(beginning) == f"continues from {beginning.checkpoint}, step 6: the newest of 5"
    for name in ("best", "last", "step=000006"):
        copied.checkpoint(name).unlink()
    assert (
        str(choose_beginning(copied))
        == f"continues from {copied.checkpoint('step=000004')}, step 4: the newest of 2"
    )


def test_a_damaged_checkpoint_is_passed_over_with_both_named(
    copied: RunFolder, trained: Trained, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("best", "last", "step=000006"):
        cut(copied.checkpoint(name))
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        assert choose_beginning(copied).checkpoint == copied.checkpoint("step=000004")
    (warning,) = (record.getMessage() for record in caplog.records)
    for name in ("best", "last", "step=000006"):
        assert f"{copied.checkpoint(name)} is damaged" in warning
    assert (
        f"The run goes on from {copied.checkpoint('step=000004')}, step 4, the newest that is whole"
        in warning
    )
    trained.small.fit(copied.path.name)
    assert watch.positions == [8, 9, 10, 11]
    assert largest_difference(weights(copied), weights(trained.run)) == 0


def test_a_run_without_a_whole_checkpoint_is_refused(copied: RunFolder) -> None:
    files = list(copied.checkpoints.glob("*.ckpt"))
    for file in files:
        cut(file)
    with pytest.raises(
        RunError, match="put back a copy of one, or delete them to start over"
    ) as refusal:
        choose_beginning(copied)
    assert all(f"{file} is damaged" in str(refusal.value) for file in files)


def test_a_converted_model_is_no_beginning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/converted").mkdir(parents=True)
    with pytest.raises(
        RunError, match=rf"holds a converted model.*training\.start_from={tmp_path}"
    ):
        choose_beginning(RunFolder(tmp_path))
