"""A folder behind a real HTTP server that knows ranges, and whatever a server can do wrong."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from lit_hour.data.shards.http import HTTPClient

QUICK = HTTPClient(
    "http://nowhere.invalid", timeout_seconds=0.3, max_attempts=3, backoff_seconds=0.01
)  # for a server that is near


class Server(ThreadingHTTPServer):
    """Serves a folder, notes each request as (path with query, range), and is told what to do
    wrong.

    Attributes:
        dies_after: bytes of a body after which a connection breaks off; several of them for one
            request after the other.
        statuses: answered to the first requests instead of the file.
        silent_seconds: before it answers.
        knows_ranges: else it always sends the whole file.
        change: what is sent in place of the bytes of a tar.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.dies_after: list[int] = []
        self.statuses: list[int] = []
        self.silent_seconds = 0.0
        self.knows_ranges = True
        self.change: Callable[[bytes], bytes] = bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def requests_for(self, end: str) -> list[str]:
        """The ranges that were asked for of the files whose name ends so."""
        return [wanted for path, wanted in self.requests if urlsplit(path).path.endswith(end)]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        server.requests.append((self.path, wanted))
        time.sleep(server.silent_seconds)
        file = server.folder / urlsplit(self.path).path.lstrip("/")
        if server.statuses or not file.is_file():
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        content = server.change(file.read_bytes()) if file.suffix == ".tar" else file.read_bytes()
        start = (
            int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_ranges else 0
        )  # type: ignore[index]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        dies = file.suffix == ".tar" and server.dies_after
        self.wfile.write(
            content[start : start + server.dies_after.pop(0)] if dies else content[start:]
        )
        self.close_connection = True

    def log_message(self, format: str, *words: object) -> None:
        """Keep quiet."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder while the block runs."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
