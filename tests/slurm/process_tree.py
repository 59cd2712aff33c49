"""Kill all processes of a cluster when standard input is closed: `python process_tree.py FOLDER`.

It runs beside the tests, so that no process is left behind even if they are killed.
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
    """Return the ids of daemons, job steps and jobs: they inherit the path of the settings."""
    mark, found = f"SLURM_CONF={folder}/slurm.conf".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def main(folder: Path) -> None:
    """Wait until standard input is closed, then kill all processes and delete the folder."""
    sys.stdin.buffer.read()
    while found := processes_of(folder):
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
