"""A run that takes two seconds, and helpers for tests that train, serve or evaluate it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor

import train
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.run_dir import RunDir
from lit_hour.training import fit as fitting
from lit_hour.training.fit import FitResult
from lit_hour.training.run_lease import LAUNCH_VARIABLES, LEASE_VARIABLE, RANK_VARIABLES
from lit_hour.types import Batch

LAUNCH_NAMES = (*RANK_VARIABLES, *LAUNCH_VARIABLES, LEASE_VARIABLE, "NODE_RANK")

NUM_STEPS, SAMPLES_PER_STEP = 6, 2


def toy_settings(data: Path) -> dict[str, Any]:
    """Return settings of a model of 0.2 million parameters, four short videos and six steps."""
    return {
        "video": {"image_size": 64, "min_frames": 4, "max_frames": 6},
        "pack": {"videos_per_shard": 2, "num_workers": 1},
        "text": {"vocab_size": 400, "mcq_format": "text"},
        "data": {
            "sources": {"world": {"shards": f"{data}/train/shards"}},
            "val_sources": {"world": {"shards": f"{data}/validation/shards"}},
            "questions_per_sample": 2,
            "val_questions_per_video": 4,
            "global_batch_size": SAMPLES_PER_STEP,
            "micro_batch_size": 1,
            "length_balance_window": 1,  # the positions of the samples are then 0, 1, 2, ...
            "num_workers": 0,
        },
        "model": {
            "vision": {"name": "lit-hour-tiny", "layer": -1, "grid": 2},
            "memaug": {"num_layers": 1, "min_frames": 4},
            "llm": {
                "hidden_size": 32,
                "num_layers": 1,
                "num_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": 48,
                "rope_theta": 10000.0,
                "initializer_range": 0.1,
            },
        },
        "training": {
            "max_steps": NUM_STEPS,
            "learning_rate": {
                "vision": 0.001,
                "projector": 0.002,
                "memaug": 0.003,
                "llm": 0.004,
            },
            "precision": "32-true",
            "val_every_n_steps": 3,
            "save_every_n_steps": 2,
            "log_every_n_steps": 1,
            "num_val_images": 0,  # plots take longer than everything else
            "accelerator": "cpu",
            "devices": "1",
        },
        "generation": {"max_new_tokens": 4},
        "synthetic": {
            "folder": str(data),
            "num_videos": 4,
            "num_val_videos": 2,
            "num_hour_videos": 0,
            "duration_seconds": 30.0,
            "image_size": 64,
            "fps": 2,
            "difficulty": "easy",
        },
    }


@dataclass(frozen=True)
class ToyProject:
    """A YAML file of small settings, with synthetic shards, and a folder for runs.

    `argv` and `config` set `run.folder` to `runs` unless an override sets it.
    """

    yaml: Path
    runs: Path

    @classmethod
    def write(cls, folder: Path, values: dict[str, Any]) -> ToyProject:
        """Write the settings to a file in `folder`; runs are in its subfolder `runs`."""
        file = folder / "small.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return cls(file, folder / "runs")

    def argv(self, name: str, *more: str) -> list[str]:
        return [str(self.yaml), f"run.folder={self.runs}", f"run.name={name}", *more]

    def config(self, name: str, *more: str) -> Config:
        return load_config(self.yaml, self.argv(name, *more)[1:])

    def fit(self, name: str, *more: str) -> FitResult:
        return fitting.fit(self.config(name, *more))

    def train(self, name: str, *more: str) -> str:
        """Run `python train.py` and return its output."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            train.main(self.argv(name, *more))
        return printed.getvalue()

    def run_dir(self, name: str) -> RunDir:
        return RunDir(self.runs / name)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, its overrides of the small settings, and its output."""

    project: ToyProject
    run: RunDir
    overrides: tuple[str, ...]
    output: str

    @property
    def config(self) -> Config:
        return self.project.config(self.run.path.name, *self.overrides)


class StoppedError(RuntimeError):
    """Raised in the middle of a run."""


class StepRecorder(Callback):
    """Records the positions of the samples and the validated steps, and can stop the run."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.validated: list[int] = []
        self.stop_after_batches: int | None = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.positions += batch.positions
        if len(self.positions) == self.stop_after_batches:
            raise StoppedError

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated.append(trainer.global_step)


def load_weights(run: RunDir, name: str = "last") -> dict[str, Tensor]:
    return torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)["state_dict"]


def max_abs_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def start_command(toy: ToyProject, name: str, *more: str) -> subprocess.Popen[bytes]:
    """Start `python train.py` in a new process, with as many threads as this one.

    It gets nothing of what a run in this process has left in the environment, such as its port.
    """
    environment = {name: text for name, text in os.environ.items() if name not in LAUNCH_NAMES}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [sys.executable, train.__file__, *toy.argv(name, *more)]
    folder = Path(train.__file__).parent
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
