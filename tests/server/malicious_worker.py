"""A decode worker that a crafted file has taken over. The sandboxed process imports this module."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path


def replay_script(connection: Connection, path: Path, *_: object) -> None:
    """Send the lines of the file as messages; DIE aborts and HANG sleeps instead."""
    for line in path.read_bytes().split(b"\n"):
        if line == b"DIE":
            os.abort()
        if line == b"HANG":
            time.sleep(60)
        connection.send_bytes(line)


def hang(*_: object) -> None:
    """Send nothing for a minute."""
    time.sleep(60)
