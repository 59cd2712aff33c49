"""Temporary directories of a server, and the names of uploads."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lit_hour.errors import ServerError
from lit_hour.server.uploads import DIR_PREFIX, MIN_DIR_AGE_SECONDS, LockedTempDir, display_name
from tests.helpers.fork import FORK


def hold_directory(connection: Connection, parent: Path) -> None:
    connection.send(LockedTempDir(str(parent), "").path)
    time.sleep(60)


def age(directory: Path) -> None:
    modified = time.time() - 2 * MIN_DIR_AGE_SECONDS
    os.utime(directory, (modified, modified))


def test_upload_directory_is_private_and_deleted_on_close(tmp_path: Path) -> None:
    directory = LockedTempDir(str(tmp_path / "new"), "")
    assert directory.path.parent == tmp_path / "new"
    assert directory.path.stat().st_mode & 0o777 == 0o700
    (directory.path / "film.mp4").write_bytes(b"film")
    directory.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_upload_directory_of_a_killed_server_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "photographs"
    other.mkdir()
    link = tmp_path / f"{DIR_PREFIX}link"
    link.symlink_to(other)
    young = tmp_path / f"{DIR_PREFIX}young"
    young.mkdir()
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=hold_directory, args=(theirs, tmp_path))
    process.start()
    locked = ours.recv()
    (locked / "film.mp4").write_bytes(b"film")
    for directory in (locked, other):
        age(directory)
    LockedTempDir(str(tmp_path), "").close()
    assert (locked / "film.mp4").exists()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    LockedTempDir(str(tmp_path), "").close()
    assert set(tmp_path.iterdir()) == {other, link, young}


def test_upload_directory_with_an_unusable_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = f"serving.memory_folder={tmp_path}/file cannot be used: File exists"
    with pytest.raises(ServerError, match=message):
        LockedTempDir(f"{tmp_path}/file", "serving.memory_folder")


def test_display_name_drops_directories_and_control_characters() -> None:
    for name, expected in {
        "../../a.mp4": "a.mp4",
        "C:\\b.mp4": "b.mp4",
        "": "video",
        "..": "..",
        "a\n\0b": "ab",
        "x" * 500: "x" * 120,
    }.items():
        assert display_name(name) == expected
