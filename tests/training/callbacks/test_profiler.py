"""Traces of a few steps."""

import gzip
import json
import logging
import re

import pytest

from lit_hour.errors import ConfigError
from tests.helpers.toy_run import StepRecorder, StoppedError, ToyProject
from tests.training.callbacks.test_logging import scalars

WORDS = ("training.profiler.num_steps=2", "training.profiler.first_step=3")


def steps_in(toy: ToyProject, name: str) -> set[str]:
    (trace,) = toy.run_dir(name).profile.glob("*.json.gz")
    assert trace.name == "step=000003.json.gz"
    with gzip.open(trace) as stream:
        events = json.load(stream)["traceEvents"]
    names = {event.get("name", "") for event in events}
    assert "aten::mm" in names or "aten::addmm" in names
    return {name for name in names if re.fullmatch(r"ProfilerStep#\d+", name)}


@pytest.mark.slow
def test_profiler_writes_a_trace_of_the_chosen_steps_and_changes_no_loss(toy: ToyProject) -> None:
    toy.fit("profiled", *WORDS)
    assert len(steps_in(toy, "profiled")) == 2
    table = (toy.run_dir("profiled").profile / "step=000003.txt").read_text()
    assert "aten::addmm" in table and "Self CPU" in table
    assert {file.name for file in toy.run_dir("profiled").profile.iterdir()} == {
        "step=000003.json.gz",
        "step=000003.txt",
    }
    toy.fit("unprofiled")
    assert not toy.run_dir("unprofiled").profile.exists()
    losses = [scalars(toy, name, "train/loss") for name in ("profiled", "unprofiled")]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_run_that_stops_in_a_profiled_step_keeps_what_was_recorded(
    toy: ToyProject, step_recorder: StepRecorder
) -> None:
    step_recorder.stop_after_batches = 8  # in the second profiled step
    with pytest.raises(StoppedError):
        toy.fit("stopped-profile", *WORDS)
    assert steps_in(toy, "stopped-profile")


@pytest.mark.slow
def test_full_disk_costs_the_trace_and_not_the_run(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    run = toy.run_dir("no-room")
    run.path.mkdir(parents=True)
    run.profile.write_text("a file in place of the folder")
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        assert toy.fit("no-room", *WORDS).step == 6
    (warning,) = (record.getMessage() for record in caplog.records)
    assert re.match(r"The trace .*step=000003\.json\.gz was not written: .*exists", warning)


def test_steps_behind_the_end_of_the_run_are_refused(toy: ToyProject) -> None:
    with pytest.raises(ConfigError, match=r"records steps 6 to 7, but the run has 6\. Lower"):
        toy.fit("late", "training.profiler.num_steps=2", "training.profiler.first_step=6")
