"""The same records in each logger, also of a run that was interrupted."""

from __future__ import annotations

import csv

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_hour.config.validate import SCHEMA
from lit_hour.errors import ConfigError
from lit_hour.training import optional_packages
from lit_hour.training.loggers import flat_settings
from tests.helpers.toy_run import StepRecorder, StoppedError, ToyProject


def rows_of(toy: ToyProject, name: str) -> list[dict[str, str]]:
    with (toy.run_dir(name).metrics / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def column(rows: list[dict[str, str]], name: str) -> dict[int, float]:
    found = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_flat_settings_have_every_setting_by_its_full_name(toy: ToyProject) -> None:
    found = flat_settings(toy.config("none", "training.learning_rate.llm=0.5"))
    names = {name.replace(".world.", ".NAME.") for name in found}
    assert names == {name for name, info in SCHEMA.items() if not info.is_section}
    assert found["training.learning_rate.llm"] == 0.5 and found["run.name"] == "none"
    assert {type(value) for value in found.values()} <= {bool, int, float, str}


def test_tensorboard_has_the_settings_in_its_table_of_runs(toy: ToyProject) -> None:
    toy.fit("settings", "training.max_steps=1")
    accumulator = EventAccumulator(str(toy.run_dir("settings").tensorboard))
    accumulator.Reload()
    content = accumulator.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    session = HParamsPluginData.FromString(content).session_start_info
    assert session.hparams.keys() == flat_settings(toy.config("settings")).keys()
    assert session.hparams["run.name"].string_value == "settings"
    assert [event.step for event in accumulator.Scalars("val/loss")] == [0]  # none before it exists


@pytest.mark.slow
def test_resumed_table_has_each_step_once_and_the_values_of_tensorboard(
    toy: ToyProject, step_recorder: StepRecorder
) -> None:
    expected = EventAccumulator(str(toy.fit("events", "training.num_val_images=1").run.tensorboard))
    expected.Reload()
    step_recorder.stop_after_batches = len(step_recorder.positions) + 10  # after five steps
    words = ("training.logger=csv", "training.num_val_images=1")
    with pytest.raises(StoppedError):
        toy.fit("table", *words)
    table = toy.run_dir("table").metrics / "metrics.csv"
    assert max(column(rows_of(toy, "table"), "train/loss")) == 4  # and step 4 is the newest saved
    with table.open("a") as stream:
        stream.write("1,2\r\n99,3")  # what a killed process has left
    table.rename(table.with_name("metrics.earlier.csv"))  # as if killed while it was opened
    step_recorder.stop_after_batches = None
    result = toy.fit("table", *words)
    rows = rows_of(toy, "table")
    for name in ("train/loss", "train/gradient_norm", "val/loss", "data/padding_share"):
        events = {event.step: event.value for event in expected.Scalars(name)}
        assert column(rows, name) == pytest.approx(events, rel=1e-6), name
    assert f"less -S {table}" in result.report()
    assert not toy.run_dir("table").tensorboard.exists()
    pictures = sorted(table.parent.glob("images/val/answers/0/*.png"))
    assert [file.name for file in pictures] == ["step=000002.png", "step=000005.png"]
    assert Image.open(pictures[0]).size[0] > 1000
    assert "training.learning_rate.llm: 0.004" in (table.parent / "hparams.yaml").read_text()


def test_missing_wandb_is_named_before_anything_is_written(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package wandb, .* pip install 'lit_hour\["):
        toy.fit("missing", "training.logger=wandb")
    assert not toy.run_dir("missing").path.exists()


@pytest.mark.slow
def test_wandb_works_offline(toy: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for max_steps in (3, 6):  # the second start resumes
        result = toy.fit(
            "weights-and-biases",
            "training.logger=wandb",
            "training.num_val_images=1",
            f"training.max_steps={max_steps}",
        )
        summary = dict(wandb.run.summary)
        assert summary["train/loss"] > 0 and "val/answers/0" in summary
        assert wandb.run.config["training.learning_rate.llm"] == 0.004
        wandb.finish()
    folder = toy.run_dir("weights-and-biases").wandb / "wandb"
    logs = sorted(folder.glob("offline-run-*"))
    assert len(logs) == 2 and len({log.name.split("-")[-1] for log in logs}) == 1  # the same run
    assert all(list(log.glob("*.wandb")) for log in logs)
    assert f"wandb sync --sync-all {folder}" in result.report()


def test_logger_is_one_of_three(toy: ToyProject) -> None:
    with pytest.raises(ConfigError, match=r"training\.logger=mlflow .* tensorboard, csv or wandb"):
        toy.config("none", "training.logger=mlflow")
    with pytest.raises(ConfigError, match=r"Did you mean 'training\.logger'"):
        toy.config("none", "training.report_to=wandb")
