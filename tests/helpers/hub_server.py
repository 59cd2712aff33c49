"""A server on this machine with the part of Hugging Face's API that reading a data set needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.http_server import run_in_thread

DATA_SET, TOKEN = "me/set", "hf_secret"
API, CONTENT = f"/api/datasets/{DATA_SET}", f"/datasets/{DATA_SET}/resolve/main/"


class HubServer(ThreadingHTTPServer):
    """Serves a folder as a private data set, and records each request as (path, range).

    Attributes:
        num_unavailable: requests for content that are answered with 503 first.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.num_unavailable = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that uses this server."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_address[1]}",
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.folder.parent / "hf_home"),
        }


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, wanted = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
        self.server.requests.append((path, wanted))
        if path.startswith((API, CONTENT)) and self.headers.get("Authorization") != (
            f"Bearer {TOKEN}"
        ):
            self.send(401, b"")
        elif path == API:
            self.send(200, json.dumps({"id": DATA_SET, "sha": "f" * 40}).encode())
        elif path.startswith(f"{API}/tree/main"):
            self.send_tree(self.server.folder / path.removeprefix(f"{API}/tree/main").lstrip("/"))
        elif path.startswith(CONTENT):
            self.send_content(self.server.folder / path.removeprefix(CONTENT), wanted)
        else:
            self.send(404, b"")

    def send_tree(self, folder: Path) -> None:
        def describe(path: Path) -> dict[str, Any]:
            name = path.relative_to(self.server.folder).as_posix()
            kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
            return {"type": kind, "path": name, "size": size, "oid": "0" * 40}

        if folder.is_dir():
            self.send(200, json.dumps([describe(path) for path in folder.iterdir()]).encode())
        else:
            self.send(404, b"")

    def send_content(self, file: Path, wanted: str) -> None:
        if self.server.num_unavailable:
            self.server.num_unavailable -= 1
            self.send(503, b"")
        elif not file.is_file():
            self.send(404, b"")
        elif match := re.fullmatch(r"bytes=(\d+)-(\d+)", wanted):
            self.send(206, file.read_bytes()[int(match[1]) : int(match[2]) + 1])
        else:
            self.send(200, file.read_bytes())

    def send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def serve_hub(folder: Path) -> Iterator[HubServer]:
    """Serve a folder while the block runs."""
    with run_in_thread(HubServer(folder)) as server:
        yield server
