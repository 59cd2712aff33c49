"""Memories that come and go within a budget: none is lost, none is changed, whoever asks at the same time."""

import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lit_hour.errors import MemoryFileError
from lit_hour.inference import memory_cache as shelf_module
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.io.atomic import unfinished_path
from tests.inference.babbling import assert_same, cut, make_predictor, noise


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def memories(predictor: VideoPredictor) -> list[VideoMemory]:
    """Of six videos, all of one size."""
    return [predictor.encode_visual(noise(20, seed), 20, f"video {seed}") for seed in range(6)]


def ready(shelf: MemoryCache) -> list[str]:
    return [key for key, place in shelf._entries.items() if place.memory is not None]


def test_the_longest_unused_go_to_disk_and_come_back(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 3 * memories[0].num_bytes)
    keys = [shelf.put(memory) for memory in memories[:3]]
    assert not list(tmp_path.iterdir()) and shelf.num_bytes == 3 * memories[0].num_bytes
    with shelf.lease(keys[0]):
        keys.append(shelf.put(memories[3]))
    assert ready(shelf) == [keys[2], keys[0], keys[3]]
    assert [file.stem for file in tmp_path.iterdir()] == [keys[1]]
    with shelf.lease(keys[1]) as found:
        assert found is not memories[1]
        assert_same(found, memories[1])
        assert ready(shelf) == [keys[0], keys[3], keys[1]]
    assert shelf.num_bytes == 3 * memories[0].num_bytes
    assert shelf.keys == [keys[2], keys[0], keys[3], keys[1]]


def test_what_is_in_use_stays_even_above_the_budget(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, memories[0].num_bytes // 2)
    first, second = (shelf.put(memory) for memory in memories[:2])
    assert ready(shelf) == [] and shelf.num_bytes == 0  # too large, both, and yet there
    with shelf.lease(first) as one, shelf.lease(second) as other, shelf.lease(first) as again:
        assert again is one and ready(shelf) == [second, first]
        assert_same(one, memories[0])
        assert_same(other, memories[1])
    assert ready(shelf) == []


def test_a_memory_that_has_grown_takes_the_place_of_the_old_one(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    video = noise(30)
    shelf = MemoryCache(predictor, tmp_path, 0)
    key = shelf.put(predictor.encode_visual(cut(video, 0, 10), 10, "live"))
    for seconds in (20, 30):
        with shelf.lease(key) as memory:
            shelf.replace(key, predictor.extend(memory, cut(video, seconds - 10, seconds), seconds))
        assert ready(shelf) == [] and [file.stem for file in tmp_path.iterdir()] == [key]
    with shelf.lease(key) as memory:
        assert_same(memory, predictor.encode_visual(video, 30, "live"))


def test_what_was_removed_is_gone(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 0)
    key, other = (shelf.put(memory) for memory in memories[:2])
    with shelf.lease(key) as memory:
        shelf.remove(key)
        assert_same(memory, memories[0])  # who uses it may go on
    assert shelf.keys == [other] and [file.stem for file in tmp_path.iterdir()] == [other]
    for refused in (
        lambda: shelf.remove(key),
        lambda: shelf.replace(key, memories[0]),
        shelf.lease(key).__enter__,
    ):
        with pytest.raises(
            MemoryFileError, match=f"no memory '{key}': it was never made here, or was removed"
        ):
            refused()
    with (
        pytest.raises(MemoryFileError, match=r"no memory '\.\./secret'"),
        shelf.lease("../secret"),
    ):
        pass


def test_another_process_finds_them_again(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 10**9)
    keys = [shelf.put(memory) for memory in memories]
    shelf.save()
    unfinished_path(tmp_path / "killed.safetensors").write_bytes(b"half")
    later = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    assert sorted(later.keys) == sorted(keys) and later.num_bytes == 0
    for key, memory in zip(keys, memories, strict=True):
        with later.lease(key) as found:
            assert_same(found, memory)
    assert {file.stem for file in tmp_path.iterdir()} == set(keys)
    assert later.num_bytes == 2 * memories[0].num_bytes


def test_a_damaged_file_is_told_and_the_others_are_not_harmed(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 0)
    key, other = (shelf.put(memory) for memory in memories[:2])
    (tmp_path / f"{key}.safetensors").write_bytes(b"x")
    for _ in range(2):
        with (
            pytest.raises(MemoryFileError, match=f"{key}.safetensors is missing, cut off"),
            shelf.lease(key),
        ):
            pass
    with shelf.lease(other) as memory:
        assert_same(memory, memories[1])


def test_none_is_lost_when_the_disk_is_full(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    shelf = MemoryCache(predictor, tmp_path / "file" / "folder", memories[0].num_bytes)
    with caplog.at_level(logging.WARNING, "lit_hour"):
        keys = [shelf.put(memory) for memory in memories[:3]]
    assert "could not be written" in caplog.text and "serving.memory_cache_gb" in caplog.text
    for key, memory in zip(keys, memories[:3], strict=True):
        with shelf.lease(key) as found:
            assert found is memory


def test_many_threads_find_what_they_put(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    keys = [shelf.put(memory) for memory in memories]

    def use(seed: int) -> int:
        draw = random.Random(seed)
        for _ in range(15):
            place = draw.randrange(len(keys))
            with shelf.lease(keys[place]) as memory:
                assert_same(memory, memories[place])
                if draw.random() < 0.3:
                    shelf.replace(keys[place], memory)
            if draw.random() < 0.2:
                shelf.remove(shelf.put(memories[place]))
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8), timeout=60)) == list(range(8))
    assert sorted(shelf.keys) == sorted(keys) and shelf.num_bytes <= 2 * memories[0].num_bytes
    assert all(place.num_leases == 0 for place in shelf._entries.values())
    assert {file.stem for file in tmp_path.iterdir()} <= set(keys)


def test_one_that_comes_from_disk_slowly_holds_nobody_up(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    slow, *others = (shelf.put(memory) for memory in memories[:3])
    reading, may_go_on, load = threading.Event(), threading.Event(), shelf_module.load_memory

    def load_slowly(*given: object) -> VideoMemory:
        reading.set()
        assert may_go_on.wait(20)
        return load(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(shelf_module, "load_memory", load_slowly)

    def ask() -> VideoMemory:
        with shelf.lease(slow) as memory:
            return memory

    with ThreadPoolExecutor(2) as pool:
        askers = [pool.submit(ask) for _ in range(2)]
        assert reading.wait(20)
        with shelf.lease(others[1]) as memory:
            assert memory is memories[2]
        may_go_on.set()
        first, second = (asker.result(20) for asker in askers)
    assert first is second  # it was read once for both
    assert_same(first, memories[0])
