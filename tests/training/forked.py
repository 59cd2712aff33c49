"""Ranks of a run as forks of the test's process: a run of its own that can be killed, without loading everything again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from small_run import Small

import train
from lit_hour.errors import InputError
from lit_hour.training import fit
from lit_hour.types import Batch

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Forked:
    """The ranks of one start of a run, and the file of each that holds what it prints."""

    ranks: list[BaseProcess]
    outputs: list[Path]

    def wait(self) -> list[int | None]:
        """The exit status of each rank; none of them may take longer than a minute."""
        for rank in self.ranks:
            rank.join(60)
        statuses = [rank.exitcode for rank in self.ranks]
        for rank in self.ranks:
            rank.kill()
        return statuses

    def printed(self, rank: int = 0) -> str:
        return self.outputs[rank].read_text()


class AtBatch(Callback):
    """Does something at the end of one training batch, or of one batch of a validation, of one rank."""

    def __init__(self, do: Callable[[], object], *, batch: int, rank: int = 0, in_validation: bool = False) -> None:
        self._do, self._batch, self._rank, self._in_validation = do, batch, rank, in_validation
        self._num_seen = 0

    def _count(self, trainer: L.Trainer) -> None:
        if trainer.validating is self._in_validation and trainer.global_rank == self._rank:
            self._num_seen += 1
            if self._num_seen == self._batch:
                self._do()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int) -> None:
        self._count(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int, loader: int = 0
    ) -> None:
        self._count(trainer)


def fork_run(
    small: Small,
    name: str,
    *words: str,
    num_ranks: int = 1,
    callback: Callback | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Forked:
    """Start `python train.py` in forks: with one more callback, after something was prepared in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    small.runs.mkdir(exist_ok=True)
    outputs = [small.runs / f"{name}-{rank}.txt" for rank in range(num_ranks)]
    words = (*small.words(name, *words), f"training.devices={num_ranks}")

    def work(rank: int) -> None:
        with outputs[rank].open("w") as output:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if num_ranks > 1:
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        build_callbacks = fit.build_callbacks
        fit.build_callbacks = lambda *given: [*build_callbacks(*given), *([callback] if callback else [])]
        prepare()
        try:
            train.main(list(words))
        except InputError as error:
            sys.exit(f"error: {error}")

    ranks = [FORK.Process(target=work, args=(rank,)) for rank in range(num_ranks)]
    for each in ranks:
        each.start()
    return Forked(ranks, outputs)
