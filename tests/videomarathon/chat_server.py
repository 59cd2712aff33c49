"""A fake chat server over HTTP in threads of the test: it fails on demand and keeps a log."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str  # a status code, or one of the names that `Handler.respond` and `spoil` know

POISON = "poison"  # a request with this word always gets status 500
STRANGE: dict[Fault, Any] = {  # JSON that is not a chat completion
    "no_choices": {"choices": [], "object": "chat.completion"},
    "no_message": {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "null": None,
    "list": [1, 2],
    "text": "busy",
    "no_numbers": {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": [1]}},
}


@dataclass(frozen=True)
class Answered:
    """A request that got a complete response.

    Attributes:
        key: idempotency key.
        body: of the request.
        kind: name of the request's JSON schema.
        seconds: when it was answered.
    """

    key: str
    body: str
    kind: str
    seconds: float


class ChatServer:
    """A server on a port of its own, which it keeps when it dies and comes back.

    Attributes:
        answered: requests that got a complete response, even a useless one, in order.
        num_requests: number of requests received.
        max_concurrent: largest number of requests in work at the same time.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str],
        fault: Callable[[int], Fault | None] = lambda number: None,
        delay_seconds: float = 0.0,
    ) -> None:
        self.answer, self.fault, self.delay_seconds = answer, fault, delay_seconds
        self.answered: list[Answered] = []
        self.num_requests = self.num_concurrent = self.max_concurrent = 0
        self.authorization = ""  # of the last request
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ChatServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def start(self) -> None:
        self.server = Listener(("127.0.0.1", self.port), Handler)
        self.server.owner = self
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Stop listening, and shut down every connection in the middle of what it transfers."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def keys(self) -> list[str]:
        return [request.key for request in self.answered]


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    owner: ChatServer


class Handler(BaseHTTPRequestHandler):
    """One keep-alive connection."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.server.owner.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        owner = self.server.owner
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:  # the client was killed
            self.close_connection = True
            return
        with owner.lock:
            owner.num_requests += 1
            number = owner.num_requests
            owner.authorization = self.headers["Authorization"]
            owner.num_concurrent += 1
            owner.max_concurrent = max(owner.max_concurrent, owner.num_concurrent)
        try:
            time.sleep(owner.delay_seconds)
            self.respond(json.loads(content), content.decode(), owner.fault(number))
        finally:
            with owner.lock:
                owner.num_concurrent -= 1

    def respond(self, body: dict[str, Any], text: str, fault: Fault | None) -> None:
        if self.path != "/v1/chat/completions":
            self.send(404, {"error": {"message": f"there is no {self.path}"}})
        elif fault is not None and fault.isdigit():
            self.send(
                int(fault),
                {"error": {"message": f"a requested fault: {fault}"}},
                {"Retry-After": "0.05"},
            )
        elif POISON in text:
            self.send(500, {"error": {"message": "this one cannot be computed"}})
        elif fault == "slow":
            time.sleep(5.0)
            self.close_connection = True
        else:
            answer, finish_reason = spoil(self.server.owner.answer(body), fault)
            content = json.dumps(completion(answer, finish_reason, text)).encode()
            schema = body.get("response_format", {}).get("json_schema", {})
            if fault in ("cut", "not_json", *STRANGE):
                self.send_broken(content, fault)
            else:
                self.send(200, content)
                with self.server.owner.lock:
                    answered = Answered(
                        self.headers["Idempotency-Key"],
                        text,
                        schema.get("name", ""),
                        time.monotonic(),
                    )
                    self.server.owner.answered.append(answered)

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_broken(self, content: bytes, fault: Fault) -> None:
        """Send half of the promised bytes, invalid JSON, or JSON that is not a completion."""
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            half = content[: len(content) // 2]
            self.send(200, half if fault == "not_json" else STRANGE[fault])


def spoil(text: str, fault: Fault | None) -> tuple[str, str]:
    """Return an answer made useless by a fault, and its finish reason."""
    if fault == "half":
        return text[: len(text) // 2], "length"
    useless = {"prose": "I see {something} red", "schema": '{"answer": "yes"}', "empty": ""}
    return useless.get(fault or "", text), "stop"


def completion(text: str, finish_reason: str, prompt: str) -> dict[str, Any]:
    """Return a chat completion; four characters count as a token."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "narrator",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {
            "prompt_tokens": len(prompt) // 4,
            "completion_tokens": len(text) // 4,
            "total_tokens": len(prompt + text) // 4,
        },
    }
