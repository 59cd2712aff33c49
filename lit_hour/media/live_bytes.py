"""Bytes of a source that is still being written: a pipe, or a file that grows (`LiveBytes`).

This module must not import torch.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from lit_hour.errors import VideoError

STANDARD_INPUT = "-"
_POLL_SECONDS = 0.1


class LiveBytes:
    """File object for PyAV; `read` waits for bytes until the source ends or stalls.

    Attributes:
        end_reason: how the source ended; empty before.
    """

    def __init__(
        self, descriptor: int, is_followed: bool, stall_seconds: float, stopped: Event
    ) -> None:
        """Create a file object.

        Args:
            descriptor: open for reading.
            is_followed: it is of a regular file, which may grow.
            stall_seconds: without new bytes, after which the source has ended.
            stopped: ends the source when it is set.
        """
        self.end_reason = ""
        self._descriptor, self._stall_seconds, self._stopped = descriptor, stall_seconds, stopped
        self._is_followed, self._position = is_followed, 0

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes, at most `num_bytes`; none at the end."""
        waits_until = time.monotonic() + self._stall_seconds
        while not self._stopped.is_set():
            if self._is_ready():
                content = os.read(self._descriptor, num_bytes)
                if content:
                    self._position += len(content)
                    return content
                if not self._is_followed:
                    return self._end("it was closed")
                if os.fstat(self._descriptor).st_size < self._position:
                    return self._end("the file became shorter")
            if time.monotonic() >= waits_until:
                return self._end(f"it sent nothing for {self._stall_seconds:g} s")
            if self._is_followed:
                self._stopped.wait(_POLL_SECONDS)
        return self._end("it was stopped")

    def _is_ready(self) -> bool:
        """Wait a moment for bytes or the end of a pipe; a file is always ready."""
        if self._is_followed:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(1000 * _POLL_SECONDS))

    def _end(self, reason: str) -> bytes:
        self.end_reason = self.end_reason or reason
        return b""


def check_live_path(source: str) -> None:
    """Check a path or `-` without opening it.

    Raises:
        VideoError: it does not exist, or is a folder; or standard input is a terminal.
    """
    if source == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise VideoError("Standard input is a terminal, not a video. Pipe a stream into it.")
    elif not os.path.exists(source):
        raise VideoError(f"{source} does not exist. Give a file, a pipe, - or a URL.")
    elif os.path.isdir(source):
        raise VideoError(f"{source} is a folder. Give a file, a pipe, - or a URL.")


@contextmanager
def open_live_bytes(source: str, stall_seconds: float, stopped: Event) -> Iterator[LiveBytes]:
    """Open a path or, for `-`, standard input.

    Raises:
        VideoError: the source does not exist or cannot be read.
    """
    check_live_path(source)
    if source == STANDARD_INPUT:
        yield LiveBytes(sys.stdin.fileno(), False, stall_seconds, stopped)
        return
    try:
        # a named pipe without a writer would block here
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VideoError(
            f"{source} cannot be read ({error.strerror}). Give a file, a pipe, - or a URL."
        ) from error
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        yield LiveBytes(descriptor, is_file, stall_seconds, stopped)
    finally:
        os.close(descriptor)
