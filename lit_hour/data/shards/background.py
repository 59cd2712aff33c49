"""Downloads that go on while training reads: one thread for each process, one after the other."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from lit_hour.errors import ConfigError, ShardError


class BackgroundDownloads:
    """A queue of downloads and its thread, which ends with the process."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[str, Callable[[], None]]] = SimpleQueue()
        self._pending: set[str] = set()
        self._errors: dict[str, BaseException] = {}
        threading.Thread(target=self._work, daemon=True).start()

    def start(self, name: str, download: Callable[[], None]) -> None:
        """Append a download, unless one of that name is pending.

        Raises:
            ShardError, ConfigError: an earlier one of that name has failed; the next call tries
                again. An error of another kind is raised in the same way.
        """
        if error := self._errors.pop(name, None):
            raise error
        if name not in self._pending:
            self._pending.add(name)
            self._queue.put((name, download))

    def _work(self) -> None:
        try:
            while True:
                self._run(*self._queue.get())
        finally:  # an unexpected error ends this thread; the remaining downloads go on in another
            threading.Thread(target=self._work, daemon=True).start()

    def _run(self, name: str, download: Callable[[], None]) -> None:
        try:
            download()
        except (ShardError, ConfigError) as error:
            self._errors[name] = error
        finally:
            if unexpected := sys.exc_info()[1]:
                self._errors[name] = unexpected
            self._pending.discard(name)


_of_process: dict[int, BackgroundDownloads] = {}  # a forked process inherits no threads


def background_downloads() -> BackgroundDownloads:
    """Return the downloads of this process."""
    process = os.getpid()
    if process not in _of_process:
        _of_process[process] = BackgroundDownloads()
    return _of_process[process]
