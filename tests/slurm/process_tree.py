"""Ends all that a cluster has started, once the other end of its input is closed: python ending.py
FOLDER

It runs beside the tests, so that nothing is left behind even when they are killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> list[int]:
    """Daemons, job steps and the jobs themselves: all have inherited where the cluster's settings
    lie."""
    mark, found = f"SLURM_CONF={folder}/slurm.conf".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def main(folder: Path) -> None:
    """Wait, then kill them all at once; their state is not needed any more."""
    sys.stdin.buffer.read()
    while found := processes_of(folder):
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
