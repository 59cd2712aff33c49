"""Room for a tensor that a worker fills and its rank uses: in memory of both, so that sending does not copy it.

Batches from processes that read ahead -> batches, the time that was waited for them, and an end to waiting in vain."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from lit_hour.errors import ShardError


def empty_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose numbers are still to be written; outside a worker it is like any other.

    Source: torch's `default_collate`, which makes its batches in the same way.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(shared).view(shape)


TORCH_TIMEOUT_MESSAGE = "DataLoader timed out"  # words of torch's
NUM_NAMED = 5  # samples that a message lists before it only counts
KILL_TIMEOUT_SECONDS = 5.0
JOB_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class LocatableDataset(Protocol):
    """A dataset that can say where a sample lies, without reading it."""

    def describe_location(self, index: int) -> str:
        """The shard and the subject of a sample, as messages name them."""


class TimedDataLoader(DataLoader[Any]):
    """A loader that knows how long it kept its caller waiting, and what it waited for when its `timeout` is over.

    Its batch sampler has to say the same each time, and its dataset `Places`.

    Raises:
        ShardError: no batch came within `timeout` seconds, because a worker hangs; its workers are ended.
    """

    data_wait_seconds = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches, sampled = super().__iter__(), iter(self.batch_sampler)  # type: ignore[arg-type]
        while True:
            awaited = next(sampled, ())
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if TORCH_TIMEOUT_MESSAGE not in str(error):
                    raise
                _kill_workers(batches._workers)  # type: ignore[attr-defined]
                raise ShardError(self._describe_hang(awaited)) from error
            finally:
                self.data_wait_seconds += time.perf_counter() - started
            yield batch

    def _describe_hang(self, awaited: Sequence[int]) -> str:
        dataset: LocatableDataset = self.dataset  # type: ignore[assignment]
        places = "; ".join(dataset.describe_location(index) for index in awaited[:NUM_NAMED])
        more = f"; and {len(awaited) - NUM_NAMED} more" if len(awaited) > NUM_NAMED else ""
        return (
            f"a process that reads data hangs: nothing has come for data.timeout_seconds={self.timeout:g}, and it is the turn"
            f" of {places}{more}. Look whether that can be read, or allow more. Started again, the run goes on from its newest"
            " checkpoint"
        )


def ignore_job_signals(worker: int) -> None:
    """Run in a worker when it starts: a warning to a whole job reaches it too, and it has to read on until its rank has saved.

    SIGTERM is also how its rank ends it, and then waits for it: what counts is who sends it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)  # in this thread and those that it starts
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(rank: int) -> None:
    while True:
        warning = signal.sigwaitinfo(JOB_SIGNALS)
        if warning.si_signo == signal.SIGTERM and warning.si_pid == rank:
            os._exit(0)  # not 1: torch would take it for a failure


def _kill_workers(workers: Sequence[BaseProcess]) -> None:
    """End processes of which one hangs: it may not heed SIGTERM, and the end of this one would wait for it."""
    for worker in workers:
        with suppress(RuntimeError):  # torch reports in the midst of this that a worker was killed
            worker.kill()
            worker.join(KILL_TIMEOUT_SECONDS)
