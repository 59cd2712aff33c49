"""An HTTP server on this machine that supports ranges and can fail in many ways."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from lit_hour.io.remote import RemoteStore

FAST_STORE = RemoteStore(
    "http://nowhere.invalid", timeout_seconds=0.3, max_attempts=3, backoff_seconds=0.01
)

AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)


class Server(ThreadingHTTPServer):
    """Serves a folder, records each request as (path with query, range), and fails on demand.

    Attributes:
        break_after: sizes of a response's body after which the connection breaks, one per request.
        statuses: returned for the first requests instead of the file.
        delay_seconds: before each response.
        supports_ranges: otherwise each response is the whole file.
        shift: added to the start of each range.
        bytes_per_second: of each response; 0 for no limit.
        change: applied to the bytes of a tar.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.break_after: list[int] = []
        self.statuses: list[int] = []
        self.delay_seconds = 0.0
        self.supports_ranges = True
        self.shift = 0
        self.bytes_per_second = 0
        self.change: Callable[[bytes], bytes] = bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def requests_for(self, suffix: str) -> list[str]:
        """Return the requested ranges of all files with a suffix."""
        return [range for path, range in self.requests if urlsplit(path).path.endswith(suffix)]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that have disconnected."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        server.requests.append((self.path, wanted))
        time.sleep(server.delay_seconds)
        file = server.folder / urlsplit(self.path).path.lstrip("/")
        if server.statuses or not file.is_file():
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        content = server.change(file.read_bytes()) if file.suffix == ".tar" else file.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted) if server.supports_ranges else None
        if match:
            start = int(match[1]) + server.shift
            content = content[start : int(match[2]) + 1 + server.shift]
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        breaks = file.suffix == ".tar" and server.break_after
        content = content[: server.break_after.pop(0)] if breaks else content
        step = server.bytes_per_second // 100 or len(content) or 1
        for first in range(0, len(content), step):
            self.wfile.write(content[first : first + step])
            time.sleep(0.01 if server.bytes_per_second else 0)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder while the block runs."""
    with run_in_thread(Server(folder)) as server:
        yield server


@contextmanager
def run_in_thread(server: AnyServer) -> Iterator[AnyServer]:
    """Run a server while the block runs, and close it."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
