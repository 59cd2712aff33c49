"""A DataLoader that measures how long training waits, and names what a hanging worker reads."""

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

from lit_hour.errors import ShardError, list_first

TORCH_TIMEOUT_MESSAGE = "DataLoader timed out"  # in torch's RuntimeError
KILL_TIMEOUT_SECONDS = 5.0
JOB_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


def empty_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate an uninitialized tensor.

    Inside a worker it is in shared memory, so that sending it copies nothing.

    Source: torch's `default_collate`, which allocates its batches in the same way.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(shared).view(shape)


class LocatableDataset(Protocol):
    """A dataset that can name the location of a sample without reading it."""

    def describe_location(self, index: int) -> str:
        """Return the shard and the key of a sample, for messages."""


class TimedDataLoader(DataLoader[Any]):
    """A DataLoader that counts waiting time, and raises a timeout with the location.

    Its batch sampler must return the same indices each time, and its dataset must be a
    `LocatableDataset`.

    Attributes:
        data_wait_seconds: time that the caller has waited for batches.

    Raises:
        ShardError: a worker hangs and no batch came within `timeout` seconds; the workers are
            killed.
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
        locations = [dataset.describe_location(index) for index in awaited]
        return (
            f"A DataLoader worker hangs: no batch within data.timeout_seconds={self.timeout:g}."
            f" It is reading {list_first(locations, '; ')}. Check whether that can be read, or set "
            "a"
            " larger timeout. The same command resumes from the newest checkpoint."
        )


def ignore_job_signals(worker: int) -> None:
    """Make a worker ignore SIGUSR1 and SIGTERM unless its rank sent SIGTERM (`worker_init_fn`).

    SLURM sends these signals to all processes of a job. The workers must continue reading until
    their rank has saved a checkpoint, and the rank itself ends its workers with SIGTERM. The sender
    tells the
    two apart: signal handlers do not receive it, but `sigwaitinfo` does. So both signals are
    blocked in all threads of the worker, and one thread waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)  # inherited by threads started later
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(rank: int) -> None:
    while True:
        received = signal.sigwaitinfo(JOB_SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == rank:
            os._exit(0)  # torch would report any other status as a failure


def _kill_workers(workers: Sequence[BaseProcess]) -> None:
    """Kill all workers.

    A hanging one may ignore SIGTERM, and the exit of this process would wait for it.
    """
    for worker in workers:
        with suppress(RuntimeError):  # torch's SIGCHLD handler reports the killed worker
            worker.kill()
            worker.join(KILL_TIMEOUT_SECONDS)
