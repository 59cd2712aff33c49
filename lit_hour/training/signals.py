"""SIGUSR1 and SIGTERM -> a note that this process has to end soon, which training looks at between its steps.

SLURM sends one of them some time before it ends a job. Where nothing takes them they end the process at once, so train.py
listens before it imports what takes long; this module itself imports neither torch nor Lightning.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WARNINGS = (signal.SIGUSR1, signal.SIGTERM)


class StopSignals:
    """What this process was told by signals.

    Attributes:
        heard: the number of the latest warning; 0 when there was none.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._is_listening = False
        # A data worker is a fork of this process, and may be one of a moment when Lightning's handler was in place, which talks
        # to the other ranks. It takes over ours instead: SLURM warns every process of a job, and workers have to read on.
        os.register_at_fork(after_in_child=self._listen_as_parent_did)

    def listen(self) -> None:
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
    def listening(self) -> Iterator[None]:
        """Listen for a while; what the warnings did before, they do again afterwards."""
        before = {each: signal.getsignal(each) for each in WARNINGS}
        was_listening = self._is_listening
        self.listen()
        try:
            yield
        finally:
            self._is_listening = was_listening
            for each, handler in before.items():
                signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def _listen_as_parent_did(self) -> None:
        if self._is_listening:
            self.listen()


STOP = StopSignals()
