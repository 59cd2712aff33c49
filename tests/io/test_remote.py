"""Files behind URLs, from a server that fails in many ways."""

import gzip
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from io import SEEK_END
from pathlib import Path

import fsspec
import pytest

from lit_hour.errors import ConfigError, ShardError
from lit_hour.io.urls import join_url, redact
from tests.helpers.disk import limit_file_size
from tests.helpers.http_server import FAST_STORE, Server, serve

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.tar").write_bytes(CONTENT)
    with serve(tmp_path / "folder") as server:
        yield server


def download(server: Server, tmp_path: Path, *, num_bytes: int = len(CONTENT)) -> bytes:
    FAST_STORE.download(f"{server.url}/a.tar", tmp_path / "a.tar", num_bytes)
    return (tmp_path / "a.tar").read_bytes()


def test_download_writes_the_complete_file(server: Server, tmp_path: Path) -> None:
    assert download(server, tmp_path) == FAST_STORE.read(f"{server.url}/a.tar") == CONTENT


def test_download_keeps_existing_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT[:1000])
    assert download(server, tmp_path) == CONTENT
    assert server.requests == [("/a.tar", f"bytes=1000-{len(CONTENT) - 1}")]
    assert download(server, tmp_path) == CONTENT and len(server.requests) == 1


def test_broken_connection_is_resumed_with_smaller_ranges(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000] * 2
    assert download(server, tmp_path) == CONTENT
    ranges = [re.findall(r"\d+", text) for text in server.requests_for("a.tar")[1:]]
    sizes = [1 + int(end) - int(start) for start, end in ranges]
    assert sizes[1] < sizes[0] < len(CONTENT) and sum(sizes[1:]) == len(CONTENT)
    server.break_after = [1000] * 20
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ShardError, match=r"Cannot download .*/a\.tar"):
        download(server, tmp_path)


def test_slow_server_is_waited_for(server: Server, tmp_path: Path) -> None:
    server.bytes_per_second = len(CONTENT)  # a second in all, and a byte each hundredth
    assert download(server, tmp_path) == CONTENT


def test_server_without_ranges_sends_the_complete_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT[:1000])
    server.supports_ranges = False
    assert download(server, tmp_path) == CONTENT
    url = f"{server.url}/a.tar"
    assert FAST_STORE.read_range(url, 300, 700, len(CONTENT)) == CONTENT[300:700]


def test_open_file_is_read_anywhere_by_ranges(server: Server) -> None:
    url = f"{server.url}/a.tar"
    server.statuses = [503, 429]
    with FAST_STORE.open(url) as stream:
        assert stream.seek(-100, SEEK_END) == len(CONTENT) - 100
        assert stream.read() == CONTENT[-100:] and stream.read(1) == b""
        assert stream.seek(1000) == 1000 and stream.read(50) == CONTENT[1000:1050]
        server.break_after = [10]
        stream.seek(0)
        assert stream.read() == CONTENT
        server.statuses = [500] * 20
        stream.seek(7)
        with pytest.raises(ShardError, match=r"/a\.tar: the server answers 500"):
            stream.read(7)
    server.statuses = []
    with pytest.raises(ShardError, match="it does not exist"):
        FAST_STORE.open(f"{server.url}/none")


def test_range_of_another_size_is_rejected(server: Server) -> None:
    server.shift = len(CONTENT) - 100
    with pytest.raises(ShardError, match="the server sends 100 bytes, not 400"):
        FAST_STORE.read_range(f"{server.url}/a.tar", 0, 400, len(CONTENT))
    assert len(server.requests) == FAST_STORE.max_attempts


def test_transient_status_is_retried(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(server, tmp_path) == CONTENT
    server.statuses = [500] * 3
    with pytest.raises(ShardError, match=rf"{server.url}/a\.tar: the server answers 500 Internal"):
        FAST_STORE.read(f"{server.url}/a.tar")
    assert server.statuses == []


@pytest.mark.parametrize(
    ("status", "words"), [(404, "it does not exist"), (403, "the server answers 403 Forbidden")]
)
def test_other_status_is_not_retried(server: Server, status: int, words: str) -> None:
    server.statuses = [status]
    with pytest.raises(ShardError, match=rf"/a\.tar: {words}"):
        FAST_STORE.read(f"{server.url}/a.tar")
    assert len(server.requests) == 1


def test_silent_server_times_out(server: Server) -> None:
    server.delay_seconds = 1.0
    started = time.monotonic()
    with pytest.raises(ShardError, match=r"/a\.tar: .*timed out"):
        replace(FAST_STORE, timeout_seconds=0.05).read(f"{server.url}/a.tar")
    assert len(server.requests) == FAST_STORE.max_attempts and time.monotonic() - started < 60


def test_refused_connection_is_reported(server: Server) -> None:
    server.server_close()
    with pytest.raises(ShardError, match=rf"Cannot download {server.url}/a\.tar: .*connect"):
        FAST_STORE.read(f"{server.url}/a.tar")
    with pytest.raises(ShardError, match=rf"Cannot download {server.url}/a\.tar: .*connect"):
        FAST_STORE.num_bytes(f"{server.url}/a.tar")


def test_missing_file_has_no_size(server: Server) -> None:
    with pytest.raises(ShardError, match=r"/none\.tar: it does not exist"):
        FAST_STORE.num_bytes(f"{server.url}/none.tar")


def test_full_disk_is_reported(server: Server, tmp_path: Path) -> None:
    reason = r"Cannot write .*/a\.tar: File too large\. Free disk space, or set data\.cache_folder"
    with limit_file_size(1000), pytest.raises(ShardError, match=reason):
        download(server, tmp_path)
    assert len(server.requests) == 1


def test_compressed_file_is_decompressed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "folder/a.tar.gz"
    file.write_bytes(gzip.compress(CONTENT))
    for location in (str(file), f"{server.url}/a.tar.gz"):
        assert FAST_STORE.decompressed_bytes(location) == len(CONTENT)
        FAST_STORE.decompress(location, tmp_path / "a.tar", len(CONTENT))
        assert (tmp_path / "a.tar").read_bytes() == CONTENT
        file.write_bytes(gzip.compress(CONTENT)[:-100])
        with pytest.raises(ShardError, match=r"a\.tar\.gz: "):
            FAST_STORE.decompressed_bytes(location)
        file.write_bytes(gzip.compress(CONTENT))


def test_memory_and_pattern() -> None:
    files = fsspec.filesystem("memory")
    files.pipe({"/bucket/b.tar": CONTENT, "/bucket/a.tar": b"a", "/bucket/c.txt": b""})
    assert FAST_STORE.read("memory://bucket/a.tar") == b"a"
    assert FAST_STORE.num_bytes("memory://bucket/b.tar") == len(CONTENT)
    assert FAST_STORE.read_range("memory://bucket/b.tar", 9, 99, len(CONTENT)) == CONTENT[9:99]
    found = FAST_STORE.glob("memory://bucket/*.tar")
    assert [FAST_STORE.num_bytes(url) for url in found] == [1, len(CONTENT)]
    with pytest.raises(ShardError, match=r"memory://bucket/none: it does not exist"):
        FAST_STORE.read("memory://bucket/none")


def test_unsupported_url_is_rejected() -> None:
    for url in ("ftp://host/a", "file:///etc/passwd", "https:///a", "simplecache::s3://a/b"):
        with pytest.raises(ConfigError, match="is not a supported URL"):
            FAST_STORE.read(url)


def test_library_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gs://bucket/a cannot be read: .*gcsfs"):
        FAST_STORE.read("gs://bucket/a")


def test_join_and_redact(server: Server) -> None:
    url = join_url("https://host/folder/?signature=x%2F", "a.tar")
    assert url == "https://host/folder/a.tar?signature=x%2F"
    assert redact("https://me:secret@host:80/a.tar?signature=x#y") == "https://host:80/a.tar"
    with pytest.raises(ShardError) as refusal:
        FAST_STORE.read(f"{server.url}/none.tar?signature=secret%2F")
    assert "secret" not in str(refusal.value)
    assert server.requests == [("/none.tar?signature=secret%2F", "")]
