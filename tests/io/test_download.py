"""Downloads: which addresses are connected to, redirects, sizes and times."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import DownloadError
from lit_hour.io import download as module
from lit_hour.io.download import DownloadLimits, download, is_public_address
from lit_hour.io.urls import is_web_url
from tests.helpers.http_server import run_in_thread

CONTENT = bytes(range(256)) * 40
LIMITS = DownloadLimits(max_bytes=20_000, timeout_seconds=5.0, allow_private=True)


class Handler(BaseHTTPRequestHandler):
    """Serves files, redirects, and endless or slow bodies."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        getattr(self, f"serve_{self.path.split('/')[1].split('?')[0]}", self.serve_missing)()

    def serve_file(self) -> None:
        self.reply(200, CONTENT)

    def serve_empty(self) -> None:
        self.reply(200, b"")

    def serve_missing(self) -> None:
        self.reply(404, b"none")

    def serve_to(self) -> None:
        self.reply(302, b"", Location=self.path.removeprefix("/to/"))

    def serve_loop(self) -> None:
        self.reply(307, b"", Location="/loop")

    def serve_declared(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000000000")
        self.end_headers()

    def serve_endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(5000))

    def serve_slow(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(300):
                self.wfile.write(b"x")
                time.sleep(0.1)

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.paths = []  # type: ignore[attr-defined]
    with run_in_thread(server):
        yield server


def url_of(web: ThreadingHTTPServer, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{web.server_port}/{path}"


def fetch(url: str, path: Path, limits: DownloadLimits = LIMITS) -> bytes:
    asyncio.run(download(url, path, limits))
    return path.read_bytes()


def test_a_file_is_downloaded_also_behind_redirects(
    web: ThreadingHTTPServer, tmp_path: Path
) -> None:
    target = url_of(web, "file?key=1#part")
    for index, path in enumerate(("file", f"to/{target}", f"to/{url_of(web, f'to/{target}')}")):
        assert fetch(url_of(web, path), tmp_path / str(index)) == CONTENT


def test_a_download_has_limits(web: ThreadingHTTPServer, tmp_path: Path) -> None:
    short = DownloadLimits(20_000, 0.5, allow_private=True)
    for index, (path, limits, reason) in enumerate(
        (
            ("missing", LIMITS, "answers with status 404"),
            ("empty", LIMITS, "is empty"),
            ("loop", LIMITS, "redirects more than 5 times"),
            ("declared", LIMITS, "larger than 0.02 MB"),
            ("endless", LIMITS, "larger than 0.02 MB"),
            ("slow", short, "was not read within 0.5 s"),
            ("to/ftp://127.0.0.1/file", LIMITS, "not a valid"),
            ("to/file:///etc/passwd", LIMITS, "not a valid"),
        )
    ):
        with pytest.raises(DownloadError, match=reason):
            fetch(url_of(web, path), tmp_path / f"{index}", limits)


def test_urls_without_a_host_or_with_a_user_are_refused(tmp_path: Path) -> None:
    for url in ("http://", "http:///x", "http://[", "http://a:99999/", "https://", "http://a:0/"):
        with pytest.raises(DownloadError, match="not a valid"):
            fetch(url, tmp_path / "x")
    for url in ("http://user@127.0.0.1/", "http://user:secret@example.org/"):
        with pytest.raises(DownloadError, match="has a user name") as error:
            fetch(url, tmp_path / "x")
        assert "secret" not in str(error.value)
    with pytest.raises(DownloadError, match="cannot be read") as error:
        fetch("http://no-such-name.invalid/a?signature=secret", tmp_path / "x")
    assert "secret" not in str(error.value)
    assert not is_web_url("file:///x") and not is_web_url("ftp://x") and is_web_url("HTTPS://x")


def test_addresses_that_are_not_public_are_told_apart() -> None:
    for address in (
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "198.18.0.1", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
        *("fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "2001:0:7f00:1::", "x", ""),
        *("fec0::1", "64:ff9b:1::7f00:1", "64:ff9b::a9fe:a9fe", "2001:0:808:808::7f00:1"),
    ):
        assert not is_public_address(address), address
    for address in ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2002:808:808::"):
        assert is_public_address(address), address


def test_only_public_addresses_are_connected_to(web: ThreadingHTTPServer, tmp_path: Path) -> None:
    limits = DownloadLimits(20_000, 5.0)
    web.paths.clear()  # type: ignore[attr-defined]
    for host in (
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::]", "127.0.0.1.", "LOCALHOST"),
    ):
        with pytest.raises(DownloadError, match=r"not public|cannot be read"):
            fetch(url_of(web, "file", host), tmp_path / "x", limits)
    with pytest.raises(DownloadError, match="not public"):
        fetch(url_of(web, "file"), tmp_path / "x", limits)
    assert web.paths == []  # type: ignore[attr-defined]


def test_the_address_is_checked_for_each_redirect(
    web: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = {"127.0.0.2"}  # a public web server, which redirects to the inside
    monkeypatch.setattr(module, "is_public_address", lambda address: address in public)
    web.paths.clear()  # type: ignore[attr-defined]
    inside = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
    inside.paths = []  # type: ignore[attr-defined]
    limits = DownloadLimits(20_000, 5.0)
    with run_in_thread(inside):
        outer = url_of(inside, "file", "127.0.0.2")
        assert fetch(outer, tmp_path / "0", limits) == CONTENT
        with pytest.raises(DownloadError, match="not public"):
            redirect = url_of(inside, f"to/{url_of(web, 'file')}", "127.0.0.2")
            fetch(redirect, tmp_path / "1", limits)
    assert web.paths == []  # type: ignore[attr-defined]


def test_a_name_that_changes_its_address_gains_nothing(
    web: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is public, the next one is loopback."""
    answers = ["93.184.216.34", "127.0.0.1"]
    resolved = []
    real_getaddrinfo = socket.getaddrinfo

    def rebind(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.test":
            return real_getaddrinfo(host, port, *args, **kwargs)
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        resolved.append(address)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    web.paths.clear()  # type: ignore[attr-defined]
    limits = DownloadLimits(20_000, 0.3)
    for _ in range(3):
        with pytest.raises(DownloadError):
            fetch(url_of(web, "file", "rebind.test"), tmp_path / "x", limits)
    assert "127.0.0.1" in resolved and web.paths == []  # type: ignore[attr-defined]
