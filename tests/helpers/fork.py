"""Fork the test's process into ranks of a run, which can be killed and load nothing anew.

The parent has one thread, as conftest.py sets it: a fork cannot use the threads of its parent.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lit_hour.errors import InputError

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class ForkedRanks:
    """The ranks of one start of a run, and the file with the output of each."""

    ranks: list[BaseProcess]
    outputs: list[Path]

    def wait(self) -> list[int | None]:
        """Return the exit status of each rank; None if it took three minutes."""
        for rank in self.ranks:
            rank.join(180)
        statuses = [rank.exitcode for rank in self.ranks]
        for rank in self.ranks:
            rank.kill()
        return statuses

    def output(self, rank: int = 0) -> str:
        """Return what a rank has printed."""
        return self.outputs[rank].read_text()


def fork_ranks(target: Callable[[int], object], outputs: list[Path]) -> ForkedRanks:
    """Call `target` with the rank in a fork for each output file; several forks are one run."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def run(rank: int) -> None:
        gc.freeze()  # freeing a process group of the parent would wait for threads not forked
        with outputs[rank].open("w") as output:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if len(outputs) > 1:
            os.environ |= {
                "LOCAL_RANK": str(rank),
                "NODE_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning has read the environment when it was imported
        try:
            target(rank)
        except InputError as error:
            sys.exit(f"error: {error}")

    ranks = [FORK.Process(target=run, args=(rank,)) for rank in range(len(outputs))]
    for process in ranks:
        process.start()
    return ForkedRanks(ranks, outputs)
