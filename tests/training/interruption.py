"""Interrupt a run at random moments, resume it, and compare it with an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_hour.training.callbacks.preemption import EXIT_UNFINISHED
from lit_hour.types import Batch
from tests import REPOSITORY
from tests.helpers.toy_run import LAUNCH_NAMES, ToyProject
from tests.training.fork_run import fork_run

KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LONGEST_DELAY_SECONDS = 0.1  # two steps or so, so that a signal comes anywhere in a step
STEPS_LEFT = 5  # at the end of a run, so that it is still going on when the last signal comes


@dataclass(frozen=True)
class Layout:
    """The processes of a run: so many ranks, each with so many workers that read."""

    num_ranks: int
    num_workers: int

    def __str__(self) -> str:
        return f"{self.num_ranks}x{self.num_workers}"


@dataclass(frozen=True)
class Interruption:
    """A signal that a rank gets some time after a step; SIGKILL all ranks get."""

    kind: signal.Signals
    step: int
    delay_seconds: float
    rank: int

    def __str__(self) -> str:
        return f"{self.kind.name} after step {self.step}"


class Interrupt(Callback):
    """Sends the signal of an interruption."""

    def __init__(self, what: Interruption) -> None:
        self._what, self._is_done = what, False

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        what = self._what
        is_meant = what.kind == signal.SIGKILL or trainer.global_rank == what.rank
        if is_meant and not self._is_done and trainer.global_step >= what.step:
            self._is_done = True
            threading.Timer(what.delay_seconds, os.kill, (os.getpid(), what.kind)).start()


class SecondStart(Callback):
    """Starts the run a second time after a step, and checks that this is refused."""

    def __init__(self, words: list[str], step: int) -> None:
        self._words, self._step = words, step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        if not trainer.is_global_zero or trainer.global_step != self._step:
            return
        self._step = -1
        environment = {name: text for name, text in os.environ.items() if name not in LAUNCH_NAMES}
        second = subprocess.run(
            [sys.executable, "train.py", *self._words],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1, second.stdout + second.stderr
        assert f"is in use: process {os.getpid()} on" in second.stderr, second.stderr


def draw(seed: int, num_steps: int, layout: Layout) -> list[Interruption]:
    """One interruption of each kind, at random steps and in random order."""
    chance = random.Random(seed)
    steps = sorted(chance.sample(range(1, num_steps - STEPS_LEFT), len(KINDS)))
    kinds = chance.sample(KINDS, len(KINDS))
    return [
        Interruption(
            kind, step, chance.uniform(0, LONGEST_DELAY_SECONDS), chance.randrange(layout.num_ranks)
        )
        for kind, step in zip(kinds, steps, strict=True)
    ]


def run_to_the_end(
    toy: ToyProject, name: str, layout: Layout, interruptions: list[Interruption], words: list[str]
) -> list[str]:
    """Start a run once more than it is interrupted; where each start began.

    While the last of several starts goes on, a second process tries to start the run.
    """
    words = [*words, f"data.num_workers={layout.num_workers}"]
    begun = []
    for what in [*interruptions, None]:
        time.sleep(
            1 - time.time() % 1
        )  # TensorBoard orders the files of a run by the seconds in which they were begun
        callback: Callback | None = Interrupt(what) if what else None
        if what is None and interruptions:
            argv = [*toy.argv(name, *words), f"training.devices={layout.num_ranks}"]
            callback = SecondStart(argv, step=interruptions[-1].step + 2)
        start = fork_run(toy, name, *words, num_ranks=layout.num_ranks, callback=callback)
        first_status = start.wait()[0]
        if (
            what is None or what.kind != signal.SIGKILL
        ):  # killed ranks are not killed at once: one may see the other go
            assert first_status == (EXIT_UNFINISHED if what else 0), (
                f"{first_status}: {start.output()}"
            )
        begun.append(
            next(line for line in start.output().splitlines() if line.startswith("run ")).partition(
                ": "
            )[2]
        )
    return begun


@dataclass(frozen=True)
class Result:
    """The loss of each step in TensorBoard, and all tensors of the last checkpoint of a run."""

    losses: list[tuple[int, float]]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    position: tuple[int, int]

    @classmethod
    def of(cls, toy: ToyProject, name: str) -> Result:
        run = toy.run_dir(name)
        curves = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
        curves.Reload()
        checkpoint = torch.load(run.checkpoint("last"), weights_only=True)
        data = checkpoint["VideoQADataModule"]
        return cls(
            losses=[(event.step, event.value) for event in curves.Scalars("train/loss")],
            weights=checkpoint["state_dict"],
            optimizer=dict(_tensors(checkpoint["optimizer_states"], "")),
            position=(data["step"], data["position"]),
        )

    def differences(self, other: Result) -> list[str]:
        """In words; empty when everything is the same to the last bit."""
        found = []
        if self.losses != other.losses:
            found.append(f"losses {self.losses} and {other.losses}")
        if self.position != other.position:
            found.append(f"samples {self.position} and {other.position}")
        for what in ("weights", "optimizer"):
            one, two = getattr(self, what), getattr(other, what)
            if one.keys() != two.keys():
                found.append(f"{what}: other names")
            found += [
                f"{what}: {name}"
                for name in one.keys() & two.keys()
                if not torch.equal(one[name], two[name])
            ]
        return found


def _tensors(tree: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(name, tree)]
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [found for key, value in items for found in _tensors(value, f"{name}.{key}")]
