"""A folder for as long as a server runs: gone when it ends, or, if it was killed, when the next one starts."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from lit_hour.errors import ServerError

PREFIX = "lit_hour_serve_"
YOUNG_SECONDS = 60.0  # a folder this new may be one that is made at this moment, and not held yet


class HeldFolder:
    """A new folder that only this user may read."""

    def __init__(self, parent: str, setting: str) -> None:
        """Delete what servers that were killed have left in a parent folder, and make a new one there.

        Args:
            parent: made if it is not there; empty for the system's folder for temporary files.
            setting: that named the parent, for the error.

        Raises:
            ServerError: no folder can be made there.
        """
        try:
            place = Path(parent or gettempdir())
            place.mkdir(parents=True, exist_ok=True)
            for left_over in place.glob(f"{PREFIX}*"):
                with suppress(FileNotFoundError):  # another server that starts may delete it as well
                    _delete_unless_held(left_over)
            self.path = Path(mkdtemp(prefix=PREFIX, dir=place))
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ServerError(f"{setting}={parent} cannot be used: {error.strerror}") from error
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self.path)
        os.close(self._descriptor)


def _delete_unless_held(folder: Path) -> None:
    """A link is not followed, and what belongs to somebody else stays."""
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or time.time() - status.st_mtime < YOUNG_SECONDS:
        return
    with _opened(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
