"""The LRU cache of memories: budget, spilling to disk, leases, threads and cancelled tasks."""

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.errors import MemoryFileError
from lit_hour.inference import memory_cache
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.io.atomic import temp_path
from tests.inference.helpers import (
    assert_equal_memories,
    make_predictor,
    random_frames,
    slice_frames,
)

TIMEOUT_SECONDS = 20


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def memories(predictor: VideoPredictor) -> list[VideoMemory]:
    """Six videos, all of one size: without thumbnails, which differ in length."""
    videos = [random_frames(20, seed) for seed in range(6)]
    encoded = [predictor.encode_visual(video, 20, "live") for video in videos]
    return [replace(memory, thumbnails=()) for memory in encoded]


class SlowLoad:
    """Makes `load_memory` wait until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.released, self.num_calls = threading.Event(), threading.Event(), 0
        load = memory_cache.load_memory

        def load_slowly(predictor: VideoPredictor, path: Path) -> VideoMemory:
            self.num_calls += 1
            self.started.set()
            assert self.released.wait(TIMEOUT_SECONDS)
            return load(predictor, path)

        monkeypatch.setattr(memory_cache, "load_memory", load_slowly)


def resident_keys(cache: MemoryCache) -> list[str]:
    return [key for key, entry in cache._entries.items() if entry.memory is not None]


def test_the_least_recently_used_memory_is_spilled_and_loaded_again(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, 3 * memories[0].num_bytes)
    keys = [cache.put(memory) for memory in memories[:3]]
    assert not list(tmp_path.iterdir()) and cache.num_bytes == 3 * memories[0].num_bytes
    with cache.lease(keys[0]):
        keys.append(cache.put(memories[3]))
    assert resident_keys(cache) == [keys[2], keys[0], keys[3]]
    assert [file.stem for file in tmp_path.iterdir()] == [keys[1]]
    with cache.lease(keys[1]) as loaded:
        assert loaded is not memories[1]
        assert_equal_memories(loaded, memories[1])
        assert resident_keys(cache) == [keys[0], keys[3], keys[1]]
    assert cache.num_bytes == 3 * memories[0].num_bytes
    assert cache.keys == [keys[2], keys[0], keys[3], keys[1]]


def test_leased_memories_stay_resident_above_the_budget(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, memories[0].num_bytes // 2)
    first, second = (cache.put(memory) for memory in memories[:2])
    assert resident_keys(cache) == [] and cache.num_bytes == 0
    with cache.lease(first) as one, cache.lease(second) as other, cache.lease(first) as again:
        assert again is one and resident_keys(cache) == [second, first]
        assert_equal_memories(one, memories[0])
        assert_equal_memories(other, memories[1])
    assert resident_keys(cache) == []


def test_replace_updates_a_memory_that_was_extended(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    video = random_frames(30)
    cache = MemoryCache(predictor, tmp_path, 0)
    key = cache.put(predictor.encode_visual(slice_frames(video, 0, 10), 10, "live"))
    for seconds in (20, 30):
        with cache.lease(key) as memory:
            new_frames = slice_frames(video, seconds - 10, seconds)
            cache.replace(key, predictor.extend(memory, new_frames, seconds))
        assert resident_keys(cache) == [] and [file.stem for file in tmp_path.iterdir()] == [key]
    with cache.lease(key) as memory:
        assert_equal_memories(memory, predictor.encode_visual(video, 30, "live"))


def test_remove_deletes_the_file_and_keeps_leases_valid(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, 0)
    key, other = (cache.put(memory) for memory in memories[:2])
    with cache.lease(key) as memory:
        cache.remove(key)
        assert_equal_memories(memory, memories[0])
    assert cache.keys == [other] and [file.stem for file in tmp_path.iterdir()] == [other]
    calls: list[Callable[[], object]] = [
        lambda: cache.remove(key),
        lambda: cache.replace(key, memories[0]),
        cache.lease(key).__enter__,
    ]
    for call in calls:
        with pytest.raises(MemoryFileError, match=f"There is no memory '{key}'"):
            call()
    with pytest.raises(MemoryFileError, match=r"There is no memory '\.\./secret'"):
        cache.lease("../secret").__enter__()


def test_a_new_process_finds_the_saved_memories(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, 10**9)
    keys = [cache.put(memory) for memory in memories]
    cache.save()
    temp_path(tmp_path / "killed.safetensors").write_bytes(b"half")
    later = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    assert sorted(later.keys) == sorted(keys) and later.num_bytes == 0
    for key, memory in zip(keys, memories, strict=True):
        with later.lease(key) as loaded:
            assert_equal_memories(loaded, memory)
    assert {file.stem for file in tmp_path.iterdir()} == set(keys)
    assert later.num_bytes == 2 * memories[0].num_bytes


def test_a_corrupt_file_is_reported_and_others_are_unaffected(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, 0)
    key, other = (cache.put(memory) for memory in memories[:2])
    (tmp_path / f"{key}.safetensors").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(MemoryFileError, match=f"{key}.safetensors is missing, truncated"):
            cache.lease(key).__enter__()
    with cache.lease(other) as memory:
        assert_equal_memories(memory, memories[1])


def test_memories_stay_resident_with_a_warning_if_the_disk_is_full(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    cache = MemoryCache(predictor, tmp_path / "file" / "folder", memories[0].num_bytes)
    with caplog.at_level(logging.WARNING, "lit_hour"):
        keys = [cache.put(memory) for memory in memories[:3]]
    assert "could not be written" in caplog.text and "serving.memory_cache_gb" in caplog.text
    for key, memory in zip(keys, memories[:3], strict=True):
        with cache.lease(key) as leased:
            assert leased is memory


def test_concurrent_threads_get_the_memories_they_put(
    predictor: VideoPredictor, memories: list[VideoMemory], tmp_path: Path
) -> None:
    cache = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    keys = [cache.put(memory) for memory in memories]

    def use(seed: int) -> int:
        generator = random.Random(seed)
        for _ in range(15):
            index = generator.randrange(len(keys))
            with cache.lease(keys[index]) as memory:
                assert_equal_memories(memory, memories[index])
                if generator.random() < 0.3:
                    cache.replace(keys[index], memory)
            if generator.random() < 0.2:
                cache.remove(cache.put(memories[index]))
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8), timeout=60)) == list(range(8))
    assert sorted(cache.keys) == sorted(keys) and cache.num_bytes <= 2 * memories[0].num_bytes
    assert all(entry.num_leases == 0 for entry in cache._entries.values())
    assert {file.stem for file in tmp_path.iterdir()} <= set(keys)


def test_a_slow_load_blocks_only_leases_of_the_same_key(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = MemoryCache(predictor, tmp_path, 2 * memories[0].num_bytes)
    spilled, _, resident = (cache.put(memory) for memory in memories[:3])
    slow = SlowLoad(monkeypatch)

    def load() -> VideoMemory:
        with cache.lease(spilled) as memory:
            return memory

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        assert slow.started.wait(TIMEOUT_SECONDS)
        with cache.lease(resident) as memory:
            assert memory is memories[2]
        slow.released.set()
        first, second = (future.result(TIMEOUT_SECONDS) for future in loads)
    assert first is second and slow.num_calls == 1
    assert_equal_memories(first, memories[0])


def test_lease_async_reads_the_disk_without_blocking_the_event_loop(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = MemoryCache(predictor, tmp_path, 0)
    key = cache.put(memories[0])
    slow = SlowLoad(monkeypatch)

    async def lease() -> None:
        async with cache.lease_async(key) as memory:
            assert_equal_memories(memory, memories[0])
            assert resident_keys(cache) == [key]

    async def main() -> None:
        task = asyncio.create_task(lease())
        while not slow.started.is_set():  # this loop runs only if the event loop is not blocked
            await asyncio.sleep(0.01)
        slow.released.set()
        await task

    asyncio.run(main())
    assert resident_keys(cache) == [] and cache._entries[key].num_leases == 0


def test_a_cancelled_lease_leaves_nothing_above_the_budget(
    predictor: VideoPredictor,
    memories: list[VideoMemory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = MemoryCache(predictor, tmp_path, 0)
    key = cache.put(memories[0])
    slow = SlowLoad(monkeypatch)

    async def lease() -> None:
        async with cache.lease_async(key):
            raise AssertionError("cancelled before")

    async def main() -> None:
        task = asyncio.create_task(lease())
        while not slow.started.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cache._entries[key].num_leases == 0
        slow.released.set()

    asyncio.run(main())  # waits for the threads of the event loop
    assert slow.num_calls == 1 and resident_keys(cache) == []
