"""Impossible settings are refused before training, with a remedy."""

import shutil
from pathlib import Path

import pytest

from lit_hour.errors import RunError, WeightsError
from lit_hour.run_dir import RunDir
from tests.helpers.toy_run import StepRecorder, ToyProject, TrainedRun
from tests.training.fork_run import fork_run


@pytest.fixture
def copied(trained: TrainedRun, tmp_path: Path) -> RunDir:
    """A finished run that a test may damage."""
    run = RunDir(shutil.copytree(trained.run.path, trained.project.runs / f"copy-{tmp_path.name}"))
    run.checkpoint("best").unlink()
    return run


def test_checkpoint_without_settings_is_refused(
    copied: RunDir, toy: ToyProject, step_recorder: StepRecorder
) -> None:
    copied.checkpoint("last").with_suffix(".yaml").unlink()
    with pytest.raises(
        RunError,
        match=r"last\.ckpt has no settings beside it\. Restore last\.yaml, or delete the",
    ):
        toy.fit(copied.path.name, "training.max_steps=8")
    assert step_recorder.positions == []


def test_checkpoint_of_another_model_is_refused(
    copied: RunDir, toy: ToyProject, step_recorder: StepRecorder
) -> None:
    wide = toy.fit(
        "wide", "training.max_steps=1", "model.llm.hidden_size=64", "model.memaug.num_layers=2"
    ).run
    shutil.copy(wide.checkpoint("last"), copied.checkpoint("last"))
    step_recorder.positions = []
    for number in (2, 4, 6):
        copied.checkpoint(f"step={number:06d}").unlink(missing_ok=True)
    with pytest.raises(WeightsError) as refusal:
        toy.fit(copied.path.name, "training.max_steps=8")
    message = str(refusal.value)
    assert message.startswith(
        f"{copied.checkpoint('last')} does not belong to last.yaml, restore the file that does: it "
        "does not"
    )
    assert "unexpected: memaug.blocks.1.self_attention.query.weight" in message
    assert "wrong shape: llm.network.model.norm.weight is (64,) and has to be (32,)" in message
    assert step_recorder.positions == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("data.global_batch_size=3",),
            "error: data.global_batch_size=3 must be a multiple of 2 (2 ranks x "
            "data.micro_batch_size=1)",
        ),
        (
            ("data.micro_batch_size=40", "data.global_batch_size=80"),
            "ranks with data.micro_batch_size=40 compute 80 at the same time. "
            "Use a smaller micro-batch, fewer ranks, or more data.",
        ),
    ],
)
def test_number_of_ranks_that_cannot_share_the_data_is_refused(
    toy: ToyProject, overrides: tuple[str, ...], message: str
) -> None:
    run = fork_run(toy, "unfit", *overrides, num_ranks=2)
    run.ranks[0].join(180)
    # A rank that has not seen the lease of rank zero waits for it; a launcher ends it then.
    run.ranks[1].join(1)
    run.ranks[1].kill()
    assert run.ranks[0].exitcode == 1
    assert message in run.output() and "Traceback" not in run.output(0) + run.output(1)
    assert not toy.run_dir("unfit").checkpoints.exists()
