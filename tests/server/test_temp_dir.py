"""The folders of a server: gone with it, and what a killed one has left is deleted by the next."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_hour.errors import ServerError
from lit_hour.server.uploads import PREFIX, YOUNG_SECONDS, LockedTempDir
from tests import REPOSITORY

HOLD = "import sys, time; from lit_hour.server.uploads import HeldFolder as H; h = H(sys.argv[1], ''); print(h.path, flush=True); time.sleep(99)"  # fmt: skip


def grow_old(folder: Path) -> None:
    then = time.time() - 2 * YOUNG_SECONDS
    os.utime(folder, (then, then))


def test_only_this_user_may_read_it_and_it_is_gone_in_the_end(tmp_path: Path) -> None:
    folder = LockedTempDir(str(tmp_path / "new"), "")
    assert folder.path.parent == tmp_path / "new" and folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "film.mp4").write_bytes(b"film")
    folder.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_server_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "photographs"
    mine.mkdir()
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(mine)
    young = tmp_path / f"{PREFIX}young"
    young.mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        held = Path(server.stdout.readline().strip())
        (held / "film.mp4").write_bytes(b"film")
        for folder in (held, mine):
            grow_old(folder)
        LockedTempDir(str(tmp_path), "").close()
        assert (held / "film.mp4").exists()
        server.send_signal(signal.SIGKILL)
    LockedTempDir(str(tmp_path), "").close()
    assert set(tmp_path.iterdir()) == {mine, link, young}


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ServerError, match=f"serving.memory_folder={tmp_path}/file cannot be used: File exists"
    ):
        LockedTempDir(f"{tmp_path}/file", "serving.memory_folder")
