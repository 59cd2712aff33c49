"""python -m tests.benchmarks.speed.startup.first_step FILE [WORDS ...]: train.py up to its first step, and when it was where.

It leaves JSON in the file: the time.time() at which each part was over. Nothing is trained beyond the first step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L


class LeaveAfterFirstStep(L.Callback):
    """Write down the times and leave at once."""

    def __init__(self, file: Path, times: dict[str, float]) -> None:
        self.file, self.times = file, times

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The model and the trainer are there."""
        self.times["tokenizer, data, model"] = time.time()

    def on_train_batch_start(self, *_: Any) -> None:
        """The first batch is there."""
        self.times["first batch"] = time.time()

    def on_train_batch_end(self, *_: Any) -> None:
        """The first step is done: in the default run a batch is a step."""
        self.times["first step"] = time.time()
        self.file.write_text(json.dumps(self.times))
        os._exit(0)


def main(file: Path, words: list[str]) -> None:
    """Run train.py with marks where its parts end."""
    import train
    from lit_hour.training import fit
    from lit_hour.world import prepare

    times = {"imports": time.time()}
    prepare_world, build_callbacks = prepare.prepare_world, fit.build_callbacks

    def timed_world(*arguments: Any) -> Any:
        world = prepare_world(*arguments)
        times["videos and shards"] = time.time()
        return world

    prepare.prepare_world = timed_world
    fit.build_callbacks = lambda *arguments: [*build_callbacks(*arguments), LeaveAfterFirstStep(file, times)]
    train.main(words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
