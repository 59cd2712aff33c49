"""Record SIGUSR1 and SIGTERM, so that training can save a checkpoint and exit between two steps.

SLURM sends one of them some time before it ends a job. Without a handler they end the process at
once, so `train.py` installs a `ShutdownSignal` before its slow imports. This module imports neither
torch nor Lightning.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

JOB_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class ShutdownSignal:
    """Handler of SIGUSR1 and SIGTERM that only records them.

    Attributes:
        received: number of the latest signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._is_installed = False
        # Lightning's SIGTERM handler, which talks to the other ranks, is in place when data workers
        # are forked. They get this handler instead: SLURM signals every process of a job, and
        # workers have to go on reading until their rank has saved.
        os.register_at_fork(after_in_child=self._reinstall_in_child)

    def install(self) -> None:
        """Install the handler. Call it again whenever Lightning has installed its own."""
        self._is_installed = True
        for number in JOB_SIGNALS:
            signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Ignore the signals while the process exits and Python removes its handlers."""
        self._is_installed = False
        for number in JOB_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handler for a `with` block and restore the previous handlers afterwards."""
        previous = {number: signal.getsignal(number) for number in JOB_SIGNALS}
        was_installed = self._is_installed
        self.install()
        try:
            yield
        finally:
            self._is_installed = was_installed
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def _reinstall_in_child(self) -> None:
        if self._is_installed:
            self.install()
