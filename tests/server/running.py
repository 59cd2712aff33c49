"""A server that runs in this process, and a client of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from lit_hour.config.serving import ServerConfig, ServingConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.app import build_app
from lit_hour.server.auth import AccessPolicy, AllowedDirs
from lit_hour.server.state import AppState

MODEL = "random_run"
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return self.json()["error"]["message"]


@dataclass(frozen=True)
class Running:
    """A server, and how to speak with it over HTTP."""

    server: AppState
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = self.connect()
        try:
            connection.request(
                method,
                path,
                body,
                {name.replace("_", "-"): value for name, value in headers.items()},
            )
            reply = connection.getresponse()
            return Reply(
                reply.status,
                {name.lower(): value for name, value in reply.getheaders()},
                reply.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def post(self, path: str, body: Any = b"", **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)

    def upload(self, content: bytes, name: str = "clip.mp4") -> Reply:
        return self.post(f"/v1/videos?name={name}", content)

    def chat(self, video: str, *turns: str, **more: Any) -> Reply:
        return self.post("/v1/chat/completions", conversation(video, *turns, **more))

    def stream(self, video: str, *turns: str, **more: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer."""
        connection = self.connect()
        try:
            connection.request(
                "POST", "/v1/chat/completions", conversation(video, *turns, stream=True, **more)
            )
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            for line in reply:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def remembered(self, video: str) -> dict[str, Any]:
        """A video, once the server has made up its mind about it."""
        return wait_for(
            lambda: (
                (found := self.get(f"/v1/videos/{video}").json())["state"]
                in ("remembered", "refused")
                and found
            )
        )

    def gauge(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def conversation(video: str, *turns: str, **more: Any) -> str:
    """The body of a request: questions and answers in turn, the video in the first one."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[place % 2], "content": text}
        for place, text in enumerate(turns)
    ]
    part = {"type": "video_url", "video_url": {"url": video}}
    messages[0]["content"] = [part, {"type": "text", "text": turns[0]}]
    return json.dumps({"model": MODEL, "messages": messages, **more})


def wait_for(look: Callable[[], Any]) -> Any:
    """What `look` sees once it sees something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return seen


@contextmanager
def running(
    predictor: VideoPredictor,
    settings: ServerConfig | None = None,
    folders: Sequence[Path] = (),
    access: AccessPolicy | None = None,
    memory_gigabytes: float = 8.0,
) -> Iterator[Running]:
    """A server on a port of its own, stopped at the end."""
    serving = ServingConfig(
        memory_cache_gb=memory_gigabytes, memory_folder="", server=settings or ServerConfig()
    )
    config = replace(predictor.config, serving=serving)
    asked = VideoPredictor(config, predictor.model, predictor.processor)
    listening = socket.create_server(("127.0.0.1", 0))
    made: list[AppState] = []
    ready = threading.Event()

    async def live() -> None:
        made.append(
            AppState(asked, MODEL, access or AccessPolicy("127.0.0.1"), AllowedDirs(folders))
        )
        config = uvicorn.Config(build_app(made[0]), log_level="error", timeout_graceful_shutdown=1)
        uvicorns.append(uvicorn.Server(config))
        ready.set()
        await uvicorns[0].serve(sockets=[listening])

    uvicorns: list[uvicorn.Server] = []
    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    place = Running(made[0], listening.getsockname()[1])
    try:
        wait_for(lambda: uvicorns[0].started)
        yield place
    finally:
        uvicorns[0].should_exit = True
        thread.join()
        listening.close()
    assert not place.server.upload_folder.exists(), "uploads outlive the server"
