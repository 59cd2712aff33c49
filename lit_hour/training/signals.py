"""Record SIGINT, SIGUSR1 and SIGTERM, so that training can save and exit between two steps.

SLURM sends one of the latter two some time before it ends a job. Without a handler they end the
process at once, so `train.py` installs a `ShutdownSignal` before its slow imports. SIGINT, which
Ctrl-C sends, is recorded only while training runs. This module imports neither torch nor Lightning.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

JOB_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
EXIT_INTERRUPTED = 128 + signal.SIGINT  # by the convention of shells
# A launcher passes on Ctrl-C to ranks that have received it already.
ABORT_TIMEOUT_SECONDS = 2.0  # for the cleanup after a second Ctrl-C
REPEAT_SECONDS = 0.5

log = logging.getLogger(__name__)


class ShutdownSignal:
    """Handler of SIGINT, SIGUSR1 and SIGTERM that only records them.

    A second SIGINT ends the process at once, even inside a library call that does not return.

    Attributes:
        received: number of the latest signal; 0 if there was none.
        before_abort: called before a second SIGINT ends the process.
    """

    def __init__(self) -> None:
        self.received = 0
        self.before_abort: Callable[[], None] = lambda: None
        self._interrupted_at: float | None = None
        self._is_installed = False
        # Lightning's SIGTERM handler, which talks to the other ranks, is in place when data workers
        # are forked. They get this handler instead: SLURM signals every process of a job, and
        # workers have to go on reading until their rank has saved.
        os.register_at_fork(after_in_child=self._reinstall_in_child)

    def install(self) -> None:
        """Handle SIGUSR1 and SIGTERM. Call it again when Lightning has installed its handlers."""
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
        """Handle all three for a `with` block and restore the previous handlers afterwards.

        SIGINT stays ignored if it is, as in a process that a shell has started in the background.
        """
        numbers = (*JOB_SIGNALS, signal.SIGINT)
        previous = {number: signal.getsignal(number) for number in numbers}
        was_installed = self._is_installed
        self.install()
        try:
            with self._watch_interrupts():
                if previous[signal.SIGINT] is not signal.SIG_IGN:
                    signal.signal(signal.SIGINT, self._handle)
                yield
        finally:
            self._is_installed = was_installed
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    @contextmanager
    def _watch_interrupts(self) -> Iterator[None]:
        """Count SIGINT in a thread: a handler does not run while a library call blocks."""
        receiver, sender = socket.socketpair()
        sender.setblocking(False)

        def watch() -> None:
            while (number := receiver.recv(1)[0]) != 0:
                if number == signal.SIGINT:
                    self._count_interrupt()

        thread = threading.Thread(target=watch, name="interrupts", daemon=True)
        previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            sender.send(b"\0")
            thread.join()
            receiver.close()
            sender.close()

    def _count_interrupt(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            log.warning(
                "\nCtrl-C: training saves and exits after this step. Press Ctrl-C again to exit at"
                " once, without saving."
            )
        elif now - self._interrupted_at >= REPEAT_SECONDS:
            for worker in multiprocessing.active_children():
                worker.kill()
            # in a thread: on a disk that hangs it would never return
            cleanup = threading.Thread(target=self.before_abort, daemon=True)
            cleanup.start()
            cleanup.join(ABORT_TIMEOUT_SECONDS)
            os._exit(EXIT_INTERRUPTED)

    def _reinstall_in_child(self) -> None:
        if self._is_installed:
            self.install()
            # Ctrl-C reaches every process of a terminal. The rank ends its workers itself.
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
