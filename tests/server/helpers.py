"""A server that runs in this process, and an HTTP client for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from lit_hour.config.serving import ServerConfig, ServingConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.app import build_app
from lit_hour.server.auth import AccessPolicy, AllowedDirs
from lit_hour.server.state import AppState

MODEL = "toy-model"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error response."""
        return self.json()["error"]["message"]


@dataclass(frozen=True)
class RunningServer:
    """A running server, and requests to it."""

    state: AppState
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        connection = self.connect()
        try:
            dashed = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, dashed)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, lower, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, **headers)

    def post(self, path: str, body: Any = b"", **headers: str) -> Response:
        return self.request("POST", path, body, **headers)

    def upload(self, content: bytes, name: str = "clip.mp4") -> Response:
        return self.post(f"/v1/videos?name={name}", content)

    def chat(self, video: str, *turns: str, **fields: Any) -> Response:
        return self.post("/v1/chat/completions", chat_body(video, *turns, **fields))

    def stream(self, video: str, *turns: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of a streamed answer."""
        connection = self.connect()
        try:
            body = chat_body(video, *turns, stream=True, **fields)
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def wait_until_finished(self, video: str) -> dict[str, Any]:
        """Return the description of a video once it is ready or failed."""

        def finished_video() -> dict[str, Any] | None:
            description = self.get(f"/v1/videos/{video}").json()
            return description if description["status"] in ("ready", "failed") else None

        return wait_for(finished_video)

    @contextmanager
    def hold_queue(self, num_requests: int, max_tokens: int = 0) -> Iterator[None]:
        """Admit requests that do nothing, for the duration of the block."""
        with ExitStack() as stack:
            for _ in range(num_requests):
                stack.enter_context(self.state.queue.admit(max_tokens))
            yield

    def metric(self, name: str) -> float:
        """Return the value of a metric; labels are part of the name."""
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def chat_body(video: str, *turns: str, **fields: Any) -> str:
    """Return the body of a request: alternating turns, with the video in the first one."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(turns)
    ]
    part = {"type": "video_url", "video_url": {"url": video}}
    messages[0]["content"] = [part, {"type": "text", "text": turns[0]}]
    return json.dumps({"model": MODEL, "messages": messages, **fields})


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition()`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)
    return value


@contextmanager
def run_server(
    predictor: VideoPredictor,
    settings: ServerConfig | None = None,
    allowed_dirs: Sequence[Path] = (),
    policy: AccessPolicy | None = None,
    memory_cache_gb: float = 8.0,
    max_evidence_gb: float = 16.0,
    kv_cache_gb: float = 4.0,
) -> Iterator[RunningServer]:
    """Run a server on a free port, and stop it at the end of the block."""
    serving = ServingConfig(
        memory_cache_gb=memory_cache_gb,
        max_evidence_gb=max_evidence_gb,
        kv_cache_gb=kv_cache_gb,
        memory_folder="",
        server=settings or ServerConfig(),
    )
    config = replace(predictor.config, serving=serving)
    configured = VideoPredictor(config, predictor.model, predictor.processor)
    listener = socket.create_server(("127.0.0.1", 0))
    states: list[AppState] = []
    servers: list[uvicorn.Server] = []
    has_state = threading.Event()

    async def main() -> None:
        access = policy or AccessPolicy("127.0.0.1")
        states.append(AppState(configured, MODEL, access, AllowedDirs(allowed_dirs)))
        config = uvicorn.Config(
            build_app(states[0]), log_level="error", timeout_graceful_shutdown=1
        )
        servers.append(uvicorn.Server(config))
        has_state.set()
        await servers[0].serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert has_state.wait(TIMEOUT_SECONDS)
    server = RunningServer(states[0], listener.getsockname()[1])
    try:
        wait_for(lambda: servers[0].started)
        yield server
    finally:
        servers[0].should_exit = True
        thread.join()
        listener.close()
    assert not server.state.upload_dir.exists(), "the uploads were not deleted"
