"""A number of each rank -> the largest of all, the same on every rank: how the ranks decide together what only one may know.

SIGUSR1 and SIGTERM -> a note that this process has to end soon, which training looks at between its steps.

SLURM sends one of them some time before it ends a job. Where nothing takes them they end the process at once, so train.py
listens before it imports what takes long; this module itself imports neither torch nor Lightning.


The error that a process gets when another one of the run was killed -> what happened, in words and without a traceback."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from lit_hour.errors import RunError


class CrossRankMax:
    """Asks all ranks, on a group of its own between CPUs, so that it neither waits for a GPU nor mixes with gradients."""

    def __init__(self) -> None:
        self._group: Any = None

    def init_group(self) -> None:
        """Called by all ranks once they have found each other. A process alone asks nobody."""
        if self._group is None and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def reduce(self, number: int) -> int:
        """The largest number that a rank has called this with. All have to call it equally often."""
        if self._group is None:
            return number
        numbers = torch.tensor([int(number)])  # (1,)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return int(numbers)


WARNINGS = (signal.SIGUSR1, signal.SIGTERM)


class ShutdownSignal:
    """What this process was told by signals.

    Attributes:
        heard: the number of the latest warning; 0 when there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._is_listening = False
        # A data worker is a fork of this process, and may be one of a moment when Lightning's handler was in place, which talks
        # to the other ranks. It takes over ours instead: SLURM warns every process of a job, and workers have to read on.
        os.register_at_fork(after_in_child=self._listen_as_parent_did)

    def install(self) -> None:
        """From now on the warnings end nothing; it is called again wherever Lightning has put a handler of its own."""
        self._is_listening = True
        for each in WARNINGS:
            signal.signal(each, self._note)

    def ignore(self) -> None:
        """From now on the warnings do nothing: the process ends by itself, and Python's handlers would go before it does."""
        self._is_listening = False
        for each in WARNINGS:
            signal.signal(each, signal.SIG_IGN)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen for a while; what the warnings did before, they do again afterwards."""
        before = {each: signal.getsignal(each) for each in WARNINGS}
        was_listening = self._is_listening
        self.install()
        try:
            yield
        finally:
            self._is_listening = was_listening
            for each, handler in before.items():
                signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def _listen_as_parent_did(self) -> None:
        if self._is_listening:
            self.install()


SHUTDOWN_SIGNAL = ShutdownSignal()


WORKER_LOST = "a process that reads data was killed, perhaps because memory ran out: fewer data.num_workers take less"
RANK_LOST = "another rank of this run has ended; what it printed says why, unless it was killed"
SIGNS = {  # words of torch's in such an error
    "DataLoader worker (pid": WORKER_LOST,
    "Connection reset by peer": RANK_LOST,
    "Connection closed by peer": RANK_LOST,
    "Broken pipe": RANK_LOST,
}


@contextmanager
def explain_crashes(
    advice: str = "Started again, the run goes on from its newest checkpoint",
) -> Iterator[None]:
    """Tell what the death of another process means, and what to do then.

    Raises:
        RunError: a rank or a data worker died while this process waited for it.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if words := classify_crash(error):
            raise RunError(f"{words}. {advice}") from error
        raise


def classify_crash(error: RuntimeError | OSError | EOFError) -> str:
    """In words; empty when the error is about something else."""
    if isinstance(error, RuntimeError):
        return next((words for sign, words in SIGNS.items() if sign in str(error)), "")
    # a worker may die while it hands over a batch; the pipe that breaks then is the standard library's
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return WORKER_LOST if "multiprocessing" in Path(innermost.filename).parts else ""
