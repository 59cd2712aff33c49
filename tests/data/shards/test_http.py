from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.shards.http import join_url, redact
from lit_hour.errors import ConfigError, ShardError
from tests.data.http_server import FAST_CLIENT, Server, serve
from tests.helpers.disk import limit_file_size

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.tar").write_bytes(CONTENT)
    with serve(tmp_path / "folder") as server:
        yield server


def download(server: Server, tmp_path: Path, *, num_bytes: int = len(CONTENT)) -> bytes:
    FAST_CLIENT.download(f"{server.url}/a.tar", tmp_path / "a.tar", num_bytes)
    return (tmp_path / "a.tar").read_bytes()


def test_download_writes_the_whole_file(server: Server, tmp_path: Path) -> None:
    assert download(server, tmp_path) == FAST_CLIENT.read(f"{server.url}/a.tar") == CONTENT


def test_download_keeps_existing_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT[:1000])
    assert download(server, tmp_path) == CONTENT
    assert server.requests == [("/a.tar", "bytes=1000-")]
    assert download(server, tmp_path) == CONTENT and len(server.requests) == 1


def test_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000] * 10  # more often than max_attempts; each brings bytes
    assert download(server, tmp_path) == CONTENT
    assert server.requests_for("a.tar") == [
        "",
        *(f"bytes={start}-" for start in range(1000, 11000, 1000)),
    ]


def test_server_without_ranges_restarts_until_attempts_are_used_up(
    server: Server, tmp_path: Path
) -> None:
    server.supports_ranges, server.break_after = False, [1000, 500]
    assert download(server, tmp_path) == CONTENT
    (tmp_path / "a.tar").unlink()
    server.requests, server.break_after = [], [1000] * 10
    with pytest.raises(ShardError, match=r"Cannot download .*/a\.tar: the connection broke"):
        download(server, tmp_path)
    assert len(server.requests) == 1 + FAST_CLIENT.max_attempts


def test_transient_status_is_retried(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(server, tmp_path) == CONTENT
    server.statuses = [500] * 3
    with pytest.raises(
        ShardError,
        match=rf"Cannot download {server.url}/a\.tar: the server answers 500 Internal Server Error",
    ):
        FAST_CLIENT.read(f"{server.url}/a.tar")
    assert server.statuses == []


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_other_status_is_not_retried(server: Server, status: int, words: str) -> None:
    server.statuses = [status]
    with pytest.raises(ShardError, match=rf"/a\.tar: the server answers {words}"):
        FAST_CLIENT.read(f"{server.url}/a.tar")
    assert len(server.requests) == 1


def test_silent_server_times_out(server: Server) -> None:
    server.delay_seconds = 1.0
    with pytest.raises(ShardError, match=r"/a\.tar: .*timed out"):
        replace(FAST_CLIENT, timeout_seconds=0.05).read(f"{server.url}/a.tar")
    assert len(server.requests) == FAST_CLIENT.max_attempts


def test_refused_connection_is_reported(server: Server) -> None:
    server.server_close()
    with pytest.raises(ShardError, match=rf"Cannot download {server.url}/a\.tar: .*refused"):
        FAST_CLIENT.read(f"{server.url}/a.tar")


@pytest.mark.parametrize("num_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_size_is_rejected_at_once(
    server: Server, tmp_path: Path, num_bytes: int
) -> None:
    with pytest.raises(
        ShardError, match=rf"/a\.tar has {len(CONTENT)} bytes, but {num_bytes} by its index"
    ):
        download(server, tmp_path, num_bytes=num_bytes)
    assert len(server.requests) == 1


def test_full_disk_is_reported(server: Server, tmp_path: Path) -> None:
    reason = r"Cannot write .*/a\.tar: File too large\. Free disk space, or set data\.cache_folder"
    with limit_file_size(1000), pytest.raises(ShardError, match=reason):
        download(server, tmp_path)
    assert len(server.requests) == 1


def test_resolve_maps_s3_to_the_endpoint() -> None:
    web = replace(FAST_CLIENT, s3_endpoint="https://store.example:9000/objects/")
    assert (
        web.resolve("s3://bucket/a/b.tar?signature=x")
        == "https://store.example:9000/objects/bucket/a/b.tar?signature=x"
    )
    assert web.resolve("https://host/a.tar") == "https://host/a.tar"
    assert (
        join_url("https://host/folder/?signature=x%2F", "a.tar")
        == "https://host/folder/a.tar?signature=x%2F"
    )
    assert redact("https://me:secret@host:80/a.tar?signature=x#y") == "https://host:80/a.tar"
    for url in ("ftp://host/a", "file:///etc/passwd", "https:///a"):
        with pytest.raises(ConfigError, match="is not a supported URL"):
            web.resolve(url)
    with pytest.raises(ConfigError, match=r"data\.s3_endpoint=store must be"):
        replace(web, s3_endpoint="store").resolve("s3://bucket/a")


def test_redact_removes_user_and_query(server: Server) -> None:
    with pytest.raises(ShardError) as refusal:
        FAST_CLIENT.read(f"{server.url}/none.tar?signature=secret")
    assert "secret" not in str(refusal.value) and server.requests == [
        ("/none.tar?signature=secret", "")
    ]
