"""Shards behind a URL, and their cache."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.shards import cache
from lit_hour.data.shards.cache import ShardCache
from lit_hour.data.shards.reader import RemoteFolder, Shards, open_shards
from lit_hour.errors import ShardError
from lit_hour.io.file_lock import dir_lock
from lit_hour.io.remote import RemoteStore
from lit_hour.io.urls import redact
from tests.helpers.http_server import FAST_STORE, Server, serve

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def server(frame_shards: Path) -> Iterator[Server]:
    """A server of three shards."""
    with serve(frame_shards) as server:
        yield server


def open_remote(
    url: str, tmp_path: Path, max_bytes: int = 10**6, store: RemoteStore = FAST_STORE
) -> Shards:
    """Open shards with a small cache and short timeouts, which are not settings."""
    folder = RemoteFolder(url, ShardCache(tmp_path / "cache", max_bytes, store))
    return Shards(redact(url).rstrip("/"), folder, folder.indexes())


def open_served(server: Server, tmp_path: Path, max_bytes: int = 10**6) -> Shards:
    return open_remote(server.url, tmp_path, max_bytes)


def cached(tmp_path: Path) -> set[str]:
    """Return the first letters of the SHA-256 of each cached shard."""
    return {file.name[:8] for file in (tmp_path / "cache").glob("*/*.tar")}


def downloads(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").glob("*/*.download"))


# Reading


def test_url_is_read_like_a_folder(server: Server, frame_shards: Path, tmp_path: Path) -> None:
    local, remote = (
        open_shards(frame_shards),
        pickle.loads(pickle.dumps(open_served(server, tmp_path))),
    )
    assert remote.indexes == local.indexes
    assert server.requests_for(".tar") == []  # downloaded when first read
    for _ in range(2):
        for entry in local.entries:
            one, other = local.read(entry), remote.read(entry)
            assert replace(one, location="") == replace(other, location="")
            assert other.location == f"{server.url}/{entry.shard}: video {entry.key!r}"
    assert sorted(path for path, _ in server.requests if path.endswith(".tar")) == [
        "/000000.tar",
        "/000001.tar",
        "/000002.tar",
    ]
    assert len(cached(tmp_path)) == 3 and not downloads(tmp_path)


def test_query_of_a_folder_url_is_sent_for_each_file(server: Server, tmp_path: Path) -> None:
    shards = open_remote(f"{server.url}/?signature=x", tmp_path)
    shards.read(shards.entries[0])
    assert {path.partition("?")[2] for path, _ in server.requests} == {"signature=x"}
    assert shards.name == server.url


def test_url_without_shards_is_rejected(server: Server, frame_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ShardError,
        match=rf"Cannot download {server.url}/none/index\.json: it does not exist",
    ):
        open_remote(f"{server.url}/none", tmp_path)


# Interrupted and corrupt downloads


def test_download_of_a_killed_process_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_after = [5000] * 2
    shards = open_served(server, tmp_path)
    index = shards.indexes[0]
    shards.read(shards.entries[0])
    (file,) = (tmp_path / "cache").glob("*/*.tar")
    file.rename(file.with_suffix(f".{index.num_bytes}.download"))
    os.truncate(downloads(tmp_path)[0], 9000)
    server.requests = []
    assert shards.read(shards.entries[0]).key == "a"
    assert server.requests_for(".tar") == [f"bytes=9000-{index.num_bytes - 1}"]


def test_wrong_bytes_of_a_resumed_download_are_downloaded_again(
    server: Server, tmp_path: Path
) -> None:
    shards = open_served(server, tmp_path)
    index = shards.indexes[0]
    file = tmp_path / "cache" / index.sha256[:2] / f"{index.sha256}.{index.num_bytes}.download"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)
    assert shards.read(shards.entries[0]).key == "a"
    assert server.requests_for(".tar") == [f"bytes=100-{index.num_bytes - 1}", ""]


def test_wrong_bytes_are_rejected_and_removed(server: Server, tmp_path: Path) -> None:
    server.change = lambda content: content[:-2000] + b"x" + content[-1999:]
    shards = open_served(server, tmp_path)
    with pytest.raises(
        ShardError,
        match=rf"{server.url}/000000\.tar does not have the SHA-256 of its index",
    ):
        shards.read(shards.entries[0])
    assert cached(tmp_path) == set() and downloads(tmp_path) == []
    server.change = lambda content: content[:-512]
    with pytest.raises(ShardError, match=r"/000000\.tar: the server sends \d+ bytes, not \d+"):
        shards.read(shards.entries[0])


def test_truncated_cached_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    shards = open_served(server, tmp_path)
    shards.read(shards.entries[0])
    (file,) = (tmp_path / "cache").glob("*/*.tar")
    os.truncate(file, 100)
    assert shards.read(shards.entries[0]).key == "a"
    assert file.stat().st_size == shards.indexes[0].num_bytes


def test_invalid_sha256_in_an_index_is_rejected(server: Server, tmp_path: Path) -> None:
    shards = open_served(server, tmp_path)
    index = replace(shards.indexes[0], sha256="../../" + "a" * 58)
    with pytest.raises(ShardError, match=r"The index of .*000000\.tar has sha256=.* not a SHA-256"):
        shards.folder.open(index)


def test_cache_folder_that_is_a_file_is_rejected(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    shards = open_served(server, tmp_path)
    with pytest.raises(ShardError, match=r"Cannot use data\.cache_folder=.*cache"):
        shards.read(shards.entries[0])


# Ranges of large tars


@pytest.fixture
def large_tars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars of any size are large: samples are fetched alone until their tar is downloaded."""
    monkeypatch.setattr(cache, "SMALL_TAR_BYTES", 0)


def wait_until_cached(tmp_path: Path, num_shards: int) -> None:
    deadline = time.monotonic() + 60
    while len(cached(tmp_path)) < num_shards:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("large_tars")
def test_first_sample_does_not_wait_for_the_tar(
    server: Server, frame_shards: Path, tmp_path: Path
) -> None:
    shards, local = open_served(server, tmp_path), open_shards(frame_shards)
    entries = shards.entries[:2]
    lock = dir_lock(tmp_path / "cache" / shards.indexes[0].sha256[:2])
    with lock:  # the download of the tar cannot begin
        read = [shards.read(entry) for entry in entries]
        assert cached(tmp_path) == set()
    expected = [f"bytes={one.offset}-{one.offset + one.num_bytes - 1}" for one in entries]
    assert server.requests_for("000000.tar")[:2] == expected
    wait_until_cached(tmp_path, 1)
    server.requests = []
    read += [shards.read(entry) for entry in entries]
    assert server.requests == []
    for stored, entry in zip(read, entries * 2, strict=True):
        assert replace(stored, location="") == replace(local.read(entry), location="")


@pytest.mark.usefixtures("large_tars")
def test_features_are_read_from_ranges(feature_shards: Path, tmp_path: Path) -> None:
    local = open_shards(feature_shards)
    with serve(feature_shards) as server:
        shards = open_served(server, tmp_path, 10**8)
        with dir_lock(tmp_path / "cache" / shards.indexes[0].sha256[:2]):
            tokens = shards.read(shards.entries[0]).tokens
            assert tokens is not None and cached(tmp_path) == set()
        expected = local.read(local.entries[0]).tokens
        assert expected is not None and tokens.tokens.equal(expected.tokens)
        wait_until_cached(tmp_path, 1)


@pytest.mark.usefixtures("large_tars")
def test_wrong_range_is_replaced_by_the_verified_tar(server: Server, tmp_path: Path) -> None:
    shards = open_served(server, tmp_path)
    server.shift = 512
    assert [shards.read(entry).key for entry in shards.entries[:2]] == ["a", "b"]
    assert len(cached(tmp_path)) == 1


@pytest.mark.usefixtures("large_tars")
def test_error_of_a_download_in_the_background_is_raised_by_a_later_read(
    server: Server, tmp_path: Path
) -> None:
    shards = open_served(server, tmp_path)
    server.change = lambda content: content[:-1] + b"x"  # behind the samples
    with pytest.raises(ShardError, match=r"does not have the SHA-256 of its index"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shards.read(shards.entries[0])
            time.sleep(0.01)
    assert cached(tmp_path) == set()


# Size limit


def test_least_recently_used_shard_is_evicted(server: Server, tmp_path: Path) -> None:
    shards = open_served(server, tmp_path)
    shards = open_served(
        server, tmp_path, max_bytes=sum(index.num_bytes for index in shards.indexes) - 1
    )
    names = [index.sha256[:8] for index in shards.indexes]
    with ExitStack() as streams:
        first = streams.enter_context(shards.folder.open(shards.indexes[0]))
        for number, expected in [(1, {0, 1}), (0, {0, 1}), (2, {0, 2}), (1, {1, 2})]:
            time.sleep(0.01)  # for different times of use
            streams.enter_context(shards.folder.open(shards.indexes[number]))
            assert cached(tmp_path) == {names[index] for index in expected}
        assert len(first.read()) == shards.indexes[0].num_bytes  # an open file stays readable


def test_shard_larger_than_the_cache_is_rejected(server: Server, tmp_path: Path) -> None:
    shards = open_served(server, tmp_path, max_bytes=1000)
    with pytest.raises(
        ShardError,
        match=r"000000\.tar has \d+ bytes, more than data\.cache_gb=1e-06\. Set a larger value",
    ):
        shards.read(shards.entries[0])
    assert server.requests_for(".tar") == []


def test_reserve_waits_for_other_downloads_and_evicts_abandoned_ones(
    server: Server, tmp_path: Path
) -> None:
    shards = open_served(server, tmp_path)
    one, other, _ = shards.indexes
    shards = open_served(server, tmp_path, max_bytes=max(one.num_bytes, other.num_bytes))
    left = tmp_path / "cache" / other.sha256[:2] / f"{other.sha256}.{other.num_bytes}.download"
    left.parent.mkdir(parents=True)
    left.touch()
    may_start = FORK.Event()
    process = FORK.Process(target=lambda: may_start.wait() and shards.read(shards.entries[0]))
    process.start()  # before the lock is acquired
    with dir_lock(left.parent):  # another process downloads it
        may_start.set()
        process.join(0.5)
        assert process.is_alive() and left.exists() and cached(tmp_path) == set()
    process.join(10)
    assert process.exitcode == 0 and not left.exists() and cached(tmp_path) == {one.sha256[:8]}


def test_processes_share_downloads_within_the_limit(server: Server, tmp_path: Path) -> None:
    """Eight processes read from a cache with space for one or two of three shards."""
    shards = open_served(server, tmp_path)
    server.break_after = [10_000] * 4
    with FORK.Pool(8) as pool:
        stored = pool.map(shards.read, [shards.entries[0]] * 8, chunksize=1)
        assert {sample.key for sample in stored} == {"a"} and server.requests_for(
            "000000.tar"
        ).count("") == 1
        max_bytes = 2 * max(index.num_bytes for index in shards.indexes)
        small = open_served(server, tmp_path, max_bytes)
        stored = pool.map(small.read, list(shards.entries) * 10, chunksize=1)
    assert [sample.key for sample in stored] == [entry.key for entry in shards.entries] * 10
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/*.*")) <= max_bytes
