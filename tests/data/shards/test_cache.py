"""Shards behind a URL are read as those on a disk, from a cache that stays within its bounds."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.shards.http import HTTPClient, redact
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.shards.storage import RemoteFolder, ShardCache
from lit_hour.errors import ShardError
from lit_hour.io.file_lock import dir_lock
from tests.data.served import QUICK, Server, serve

PROCESSES = multiprocessing.get_context("fork")  # quick to start


@pytest.fixture
def server(packed: Path) -> Iterator[Server]:
    """Serves three shards."""
    with serve(packed) as server:
        yield server


def open_remote(
    url: str, tmp_path: Path, max_bytes: int = 10**6, http: HTTPClient = QUICK
) -> Shards:
    """Open shards with a small cache and short timeouts, which are not settings."""
    folder = RemoteFolder(url, ShardCache(tmp_path / "cache", max_bytes, http))
    return Shards(redact(url).rstrip("/"), folder, folder.indexes())


def opened(server: Server, tmp_path: Path, max_bytes: int = 10**6) -> Shards:
    return open_remote(server.url, tmp_path, max_bytes)


def kept(tmp_path: Path) -> set[str]:
    """The first letters of the SHA-256 of each shard in the cache."""
    return {file.name[:8] for file in (tmp_path / "cache").glob("*/*.tar")}


def unfinished(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").glob("*/*.download"))


# What is read


def test_a_url_is_read_as_a_folder_is(server: Server, packed: Path, tmp_path: Path) -> None:
    local, remote = open_shards(packed), pickle.loads(pickle.dumps(opened(server, tmp_path)))
    assert remote.indexes == local.indexes
    assert server.requests_for(".tar") == []  # nobody has asked for one yet
    for _ in range(2):
        for subject in local.entries:
            one, other = local.read(subject), remote.read(subject)
            assert replace(one, location="") == replace(other, location="")
            assert other.location == f"{server.url}/{subject.shard}: video {subject.key!r}"
    assert sorted(path for path, _ in server.requests if path.endswith(".tar")) == [
        "/000000.tar",
        "/000001.tar",
        "/000002.tar",
    ]
    assert len(kept(tmp_path)) == 3 and not unfinished(tmp_path)


def test_the_query_of_a_folder_goes_with_each_file(server: Server, tmp_path: Path) -> None:
    shards = open_remote(f"{server.url}/?signature=x", tmp_path)
    shards.read(shards.entries[0])
    assert {path.partition("?")[2] for path, _ in server.requests} == {"signature=x"}
    assert shards.name == server.url


def test_s3_is_fetched_from_the_endpoint(server: Server, packed: Path, tmp_path: Path) -> None:
    http = replace(QUICK, s3_endpoint=f"{server.url}/")
    server.folder = packed.parent
    shards = open_remote(f"s3://{packed.name}", tmp_path, http=http)
    assert shards.read(shards.entries[0]).key == "a" and shards.name == f"s3://{packed.name}"


def test_a_url_without_shards_is_named(server: Server, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ShardError,
        match=rf"Cannot download {server.url}/none/index\.json: the server answers 404",
    ):
        open_remote(f"{server.url}/none", tmp_path)


# What goes wrong on the way


def test_a_shard_goes_on_where_a_killed_process_left_it(server: Server, tmp_path: Path) -> None:
    server.dies_after = [5000] * 3
    shards = opened(server, tmp_path)
    index = shards.indexes[0]
    shards.read(shards.entries[0])
    (file,) = (tmp_path / "cache").glob("*/*.tar")
    file.rename(file.with_suffix(f".{index.num_bytes}.download"))
    os.truncate(unfinished(tmp_path)[0], 9000)
    server.requests = []
    assert shards.read(shards.entries[0]).key == "a"
    assert server.requests_for(".tar") == ["bytes=9000-"]


def test_wrong_bytes_are_fetched_anew_when_an_earlier_process_may_have_left_them(
    server: Server, tmp_path: Path
) -> None:
    shards = opened(server, tmp_path)
    index = shards.indexes[0]
    file = tmp_path / "cache" / index.sha256[:2] / f"{index.sha256}.{index.num_bytes}.download"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)
    assert shards.read(shards.entries[0]).key == "a"
    assert server.requests_for(".tar") == ["bytes=100-", ""]


def test_wrong_bytes_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.change = lambda content: content[:-2000] + b"x" + content[-1999:]
    shards = opened(server, tmp_path)
    with pytest.raises(
        ShardError,
        match=rf"{server.url}/000000\.tar does not have the SHA-256 of its index",
    ):
        shards.read(shards.entries[0])
    assert kept(tmp_path) == set() and unfinished(tmp_path) == []
    server.change = lambda content: content[:-512]
    with pytest.raises(ShardError, match=r"/000000\.tar has \d+ bytes, but \d+ by its index"):
        shards.read(shards.entries[0])


def test_a_cached_file_that_was_cut_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    shards = opened(server, tmp_path)
    shards.read(shards.entries[0])
    (file,) = (tmp_path / "cache").glob("*/*.tar")
    os.truncate(file, 100)
    assert shards.read(shards.entries[0]).key == "a"
    assert file.stat().st_size == shards.indexes[0].num_bytes


def test_a_checksum_that_is_none_names_no_file(server: Server, tmp_path: Path) -> None:
    shards = opened(server, tmp_path)
    index = replace(shards.indexes[0], sha256="../../" + "a" * 58)
    with pytest.raises(ShardError, match=r"The index of .*000000\.tar has sha256=.* not a SHA-256"):
        shards.folder.open(index)


def test_a_cache_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    shards = opened(server, tmp_path)
    with pytest.raises(ShardError, match=r"Cannot use data\.cache_folder=.*cache"):
        shards.read(shards.entries[0])


# Its bounds


def test_what_was_used_least_recently_makes_room(server: Server, tmp_path: Path) -> None:
    shards = opened(server, tmp_path)
    shards = opened(
        server, tmp_path, max_bytes=sum(index.num_bytes for index in shards.indexes) - 1
    )
    names = [index.sha256[:8] for index in shards.indexes]
    with ExitStack() as streams:
        first = streams.enter_context(shards.folder.open(shards.indexes[0]))
        for number, expected in [(1, {0, 1}), (0, {0, 1}), (2, {0, 2}), (1, {1, 2})]:
            time.sleep(0.01)  # so that the times of use differ
            streams.enter_context(shards.folder.open(shards.indexes[number]))
            assert kept(tmp_path) == {names[each] for each in expected}
        assert len(first.read()) == shards.indexes[0].num_bytes  # who has it open goes on reading


def test_a_shard_that_does_not_fit_is_refused(server: Server, tmp_path: Path) -> None:
    shards = opened(server, tmp_path, max_bytes=1000)
    with pytest.raises(
        ShardError,
        match=r"000000\.tar has \d+ bytes, more than data\.cache_gb=1e-06\. Set a larger value",
    ):
        shards.read(shards.entries[0])
    assert server.requests_for(".tar") == []


def test_room_that_others_are_filling_is_waited_for_and_what_they_left_is_taken(
    server: Server, tmp_path: Path
) -> None:
    shards = opened(server, tmp_path)
    one, other, _ = shards.indexes
    shards = opened(server, tmp_path, max_bytes=max(one.num_bytes, other.num_bytes))
    left = tmp_path / "cache" / other.sha256[:2] / f"{other.sha256}.{other.num_bytes}.download"
    left.parent.mkdir(parents=True)
    left.touch()
    may_start = PROCESSES.Event()
    process = PROCESSES.Process(target=lambda: may_start.wait() and shards.read(shards.entries[0]))
    process.start()  # before the lock, which a fork would hold as well
    with dir_lock(left.parent):  # somebody is at it
        may_start.set()
        process.join(0.5)
        assert process.is_alive() and left.exists() and kept(tmp_path) == set()
    process.join(10)
    assert process.exitcode == 0 and not left.exists() and kept(tmp_path) == {one.sha256[:8]}


def test_processes_share_what_one_of_them_fetches(server: Server, tmp_path: Path) -> None:
    """Eight processes at once, in a cache that holds one or two of three shards: nobody reads
    anything wrong."""
    shards = opened(server, tmp_path)
    server.dies_after = [10_000] * 4
    with PROCESSES.Pool(8) as pool:
        stored = pool.map(shards.read, [shards.entries[0]] * 8, chunksize=1)
        assert {each.key for each in stored} == {"a"} and server.requests_for("000000.tar").count(
            ""
        ) == 1
        max_bytes = 2 * max(index.num_bytes for index in shards.indexes)
        small = opened(server, tmp_path, max_bytes)
        stored = pool.map(small.read, list(shards.entries) * 10, chunksize=1)
    assert [each.key for each in stored] == [subject.key for subject in shards.entries] * 10
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/*.*")) <= max_bytes
