from pathlib import Path

import pytest

from lit_hour.io.atomic import (
    atomic_dir,
    atomic_path,
    atomic_write,
    atomic_write_text,
    remove_temp_files,
    shared_temp_path,
    temp_path,
)


def test_atomic_write_replaces_a_file_at_the_end_of_the_block(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    atomic_write_text(file, "first")
    with atomic_write(file) as stream:
        stream.write("second")
        stream.flush()
        assert file.read_text() == "first" and temp_path(file).read_text() == "second"
    assert file.read_text() == "second"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    atomic_write_text(file, "first")
    with pytest.raises(KeyError), atomic_path(file) as temp:
        temp.write_text("second")
        raise KeyError
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_atomic_dir_replaces_a_folder_and_what_a_killed_process_left(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for left in (folder, shared_temp_path(folder)):
        left.mkdir()
        (left / "old").touch()
    with pytest.raises(KeyError), atomic_dir(folder):
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with atomic_dir(folder) as temp:
        assert list(temp.iterdir()) == [] and (folder / "old").exists()
        (temp / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_remove_temp_files_removes_files_and_folders_of_killed_processes(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    (tmp_path / "a.tar.77.unfinished").touch()
    (tmp_path / "b.ckpt.unfinished/c").mkdir(parents=True)
    removed = remove_temp_files(tmp_path)
    assert [path.name for path in removed] == ["a.tar.77.unfinished", "b.ckpt.unfinished"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
