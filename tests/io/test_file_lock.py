import multiprocessing
import time
from pathlib import Path

from lit_hour.io.file_lock import dir_lock, is_locked, rank_locks

FORK = multiprocessing.get_context("fork")


def test_lock_of_a_folder_excludes_other_processes(tmp_path: Path) -> None:
    folder, acquired = tmp_path / "new/folder", FORK.Event()

    def wait_for_lock() -> None:
        with dir_lock(folder):
            acquired.set()

    with dir_lock(folder):
        assert is_locked(dir_lock(folder))
        process = FORK.Process(target=wait_for_lock)
        process.start()
        assert not acquired.wait(0.3)
    assert acquired.wait(10)
    process.join()
    assert not is_locked(dir_lock(folder))


def test_ranks_use_a_folder_at_the_same_time_and_their_locks_are_found(tmp_path: Path) -> None:
    with dir_lock(tmp_path, rank=0), dir_lock(tmp_path, rank=1):
        assert [is_locked(lock) for lock in rank_locks(tmp_path)] == [True, True]
        assert not is_locked(dir_lock(tmp_path))
    assert [is_locked(lock) for lock in rank_locks(tmp_path)] == [False, False]


def test_killed_process_releases_its_lock(tmp_path: Path) -> None:
    held = FORK.Event()

    def hold_lock() -> None:
        with dir_lock(tmp_path):
            held.set()
            time.sleep(60)

    process = FORK.Process(target=hold_lock)
    process.start()
    assert held.wait(10) and is_locked(dir_lock(tmp_path))
    process.kill()
    process.join()
    assert not is_locked(dir_lock(tmp_path))


def test_forked_child_does_not_inherit_a_lock(tmp_path: Path) -> None:
    with dir_lock(tmp_path):
        process = FORK.Process(target=time.sleep, args=(60,))
        process.start()
    assert not is_locked(dir_lock(tmp_path))
    process.kill()
    process.join()
