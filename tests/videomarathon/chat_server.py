"""A chat server over HTTP, in threads of the test: it answers by a function, keeps a log, fails when told to, and can die."""

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

Fault = str  # one of the names that `Handler.fail` and `Handler.spoil` know

POISON = "poison"  # a request with this word in it is answered 500 for ever
STRANGE: dict[Fault, Any] = {  # JSON that is no answer
    "no_choices": {"choices": [], "object": "chat.completion"},
    "no_message": {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "null": None,
    "list": [1, 2],
    "text": "busy",
    "no_numbers": {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": [1]}},
}


@dataclass(frozen=True)
class Answered:
    """A request that was answered well: its key, the whole of it, the form of the answer, and when."""

    key: str
    body: str
    form: str
    seconds: float


class ChatServer:
    """A server on a port of its own, which it keeps when it dies and comes back.

    Attributes:
        answered: requests that got a whole answer, be it a useless one, in order.
        num_requests: all that came.
        most_at_once: requests that were being answered at the same time.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str],
        fault: Callable[[int], Fault | None] = lambda number: None,
        delay_seconds: float = 0.0,
    ) -> None:
        self.answer, self.fault, self.delay_seconds = answer, fault, delay_seconds
        self.answered: list[Answered] = []
        self.num_requests = self.num_at_once = self.most_at_once = 0
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
        """Stop listening, and break off every connection in the middle of whatever it carries."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def keys(self) -> list[str]:
        return [each.key for each in self.answered]


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    owner: ChatServer


class Handler(BaseHTTPRequestHandler):
    """One connection, which stays open from request to request."""

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
        if len(content) < length:  # whoever asked was killed
            self.close_connection = True
            return
        with owner.lock:
            owner.num_requests += 1
            number = owner.num_requests
            owner.authorization = self.headers["Authorization"]
            owner.num_at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.num_at_once)
        try:
            time.sleep(owner.delay_seconds)
            self.respond(json.loads(content), content.decode(), owner.fault(number))
        finally:
            with owner.lock:
                owner.num_at_once -= 1

    def respond(self, body: dict[str, Any], words: str, fault: Fault | None) -> None:
        if self.path != "/v1/chat/completions":
            self.send(404, {"error": {"message": f"there is no {self.path}"}})
        elif fault is not None and fault.isdigit():
            self.send(
                int(fault),
                {"error": {"message": f"a fault that was asked for: {fault}"}},
                {"Retry-After": "0.05"},
            )
        elif words.count(POISON):
            self.send(500, {"error": {"message": "this one cannot be computed"}})
        elif fault == "slow":
            time.sleep(2.0)
            self.close_connection = True
        else:
            text, finish_reason = spoil(self.server.owner.answer(body), fault)
            content = json.dumps(completion(text, finish_reason, words)).encode()
            form = (
                body["response_format"]["json_schema"]["name"] if "response_format" in body else ""
            )
            if fault in ("cut", "not_json", *STRANGE):
                self.send_broken(content, fault)
            else:
                self.send(200, content)
                with self.server.owner.lock:
                    answered = Answered(
                        self.headers["Idempotency-Key"], words, form, time.monotonic()
                    )
                    self.server.owner.answered.append(answered)

    def send(
        self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
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
        """A response that is no answer: half of the bytes that were promised, no JSON, or no choice in it."""
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.send(
                200,
                content[: len(content) // 2]
                if fault == "not_json"
                else {"choices": [], "object": "chat.completion"},
            )


def spoil(text: str, fault: Fault | None) -> tuple[str, str]:
    """An answer that came whole and cannot be used, and the reason for which it ended."""
    if fault == "half":
        return text[: len(text) // 2], "length"
    spoilt = {"prose": "I see {something} red", "schema": '{"answer": "yes"}', "empty": ""}
    return spoilt.get(fault or "", text), "stop"


def completion(text: str, finish_reason: str, words: str) -> dict[str, Any]:
    """A response as servers of this kind send it; a token has four letters."""
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
            "prompt_tokens": len(words) // 4,
            "completion_tokens": len(text) // 4,
            "total_tokens": len(words + text) // 4,
        },
    }
