"""The routes of the server: each finds what is asked for, and says it.

The words of `python -m lit_hour serve` -> a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server import generation as answering
from lit_hour.server.auth import AccessMiddleware, AccessPolicy, AllowedDirs, read_token
from lit_hour.server.chat_completions import (
    MAX_BODY_BYTES,
    Completion,
    EventStream,
    parse_chat,
    write_events,
)
from lit_hour.server.generation import Completed, StreamEvent
from lit_hour.server.http_errors import HANDLERS, HTTPRefusal
from lit_hour.server.metrics import CountResponses
from lit_hour.server.queueing import cancel_on_disconnect
from lit_hour.server.state import AppState
from lit_hour.server.uploads import read_body

PAGE = Path(__file__).parent / "static"
ASSETS = {
    "/": PAGE / "index.html",
    **{f"/page/{file.name}": file for file in PAGE.iterdir() if file.suffix != ".html"},
}
MEDIA_TYPES = {  # what a player is told of a file; a stranger's file is never a page
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "video/mp4"),
    **{".webm": "video/webm", ".mkv": "video/x-matroska", ".ogv": "video/ogg"},
}
MAX_TOKEN_BYTES = 4096


def build_app(server: AppState) -> FastAPI:
    """The application of a server."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(
        openapi_url=None, lifespan=life
    )  # its pages of documentation load scripts from elsewhere
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(HTTPException, _reply_http)
    _add_page(app)
    _add_status(app, server)
    _add_videos(app, server)
    _add_chat(app, server)
    app.add_middleware(CountResponses, metrics=server.metrics)
    app.add_middleware(
        AccessMiddleware, access=server.access
    )  # the last one added is the first one asked
    return app


def _add_page(app: FastAPI) -> None:
    async def asset(request: Request) -> FileResponse:
        return FileResponse(ASSETS[request.url.path], headers={"Cache-Control": "no-cache"})

    for path in ASSETS:
        app.add_api_route(path, asset, response_model=None)


def _add_status(app: FastAPI, server: AppState) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/login")
    async def login(request: Request) -> Response:
        token = await read_body(request, MAX_TOKEN_BYTES, server.settings.upload_idle_seconds)
        if not server.access.is_valid_token(token.decode(errors="replace").strip()):
            raise HTTPRefusal(401, "this is not the token of this server")
        reply = Response(status_code=204)
        name = server.access.cookie_name(request.headers)
        reply.set_cookie(
            name,
            server.access.session_secret,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return reply

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [
                {"id": server.model_name, "object": "model", "owned_by": "lit_hour", "created": 0}
            ],
        }

    @app.get("/v1/server")
    async def limits() -> dict[str, Any]:
        settings = server.settings
        return {
            "model": server.model_name,
            "max_upload_mb": settings.max_upload_mb,
            "max_video_seconds": settings.max_video_seconds,
        }


def _add_videos(app: FastAPI, server: AppState) -> None:
    @app.get("/v1/videos")
    async def list_videos() -> dict[str, Any]:
        files = await asyncio.to_thread(server.allowed_dirs.list_videos)
        return {
            "object": "list",
            "data": [video.describe() for video in server.videos.list()],
            "files": [{"name": name, "url": path.as_uri()} for path, name in files],
        }

    @app.post("/v1/videos", status_code=201)
    async def upload(request: Request, name: str = "") -> dict[str, Any]:
        return (await server.add_upload(request, name)).describe()

    @app.post("/v1/videos/open")
    async def open_video(request: Request) -> dict[str, Any]:
        url = await read_body(request, MAX_BODY_BYTES, server.settings.upload_idle_seconds)
        return (
            await server.resolve_video(request, url.decode(errors="replace").strip())
        ).describe()

    @app.get("/v1/videos/{video_id}")
    async def describe(video_id: str) -> dict[str, Any]:
        return server.videos.get(video_id).describe()

    @app.delete("/v1/videos/{video_id}")
    async def delete(video_id: str) -> dict[str, Any]:
        server.videos.remove(server.videos.get(video_id))
        return {"id": video_id, "object": "video", "deleted": True}

    @app.get("/v1/videos/{video_id}/file")
    async def play(video_id: str) -> FileResponse:
        video = server.videos.get(video_id)
        if not video.path.is_file():
            raise HTTPRefusal(404, "the file of this video is no longer there")
        kind = MEDIA_TYPES.get(Path(video.name).suffix.lower(), "application/octet-stream")
        return FileResponse(
            video.path, media_type=kind, headers={"Content-Security-Policy": "sandbox"}
        )

    @app.get("/v1/videos/{video_id}/pictures/{place}")
    async def picture(video_id: str, place: int) -> Response:
        pictures = server.videos.get(video_id).thumbnails
        if not 0 <= place < len(pictures):
            raise HTTPRefusal(404, "there is no such picture of this video")
        return Response(
            pictures[place][1],
            media_type="image/jpeg",
            headers={"Cache-Control": "private, max-age=3600"},
        )


def _add_chat(app: FastAPI, server: AppState) -> None:
    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        chat = parse_chat(
            await read_body(request, MAX_BODY_BYTES, server.settings.upload_idle_seconds)
        )
        if chat.model != server.model_name:
            raise HTTPRefusal(
                404, f"there is no model {chat.model[:80]!r} here, only {server.model_name!r}"
            )
        question, history = chat.turns()
        video = await server.resolve_video(request, chat.url())
        asked = answering.GenerationRequest(
            video, question, history, chat.max_completion_tokens or chat.max_tokens
        )
        completion = Completion.begin(server.model_name)
        async with AsyncExitStack() as stack:
            happenings = await stack.enter_async_context(server.generation.stream(asked))
            if not chat.stream:
                return JSONResponse(
                    completion.full(await cancel_on_disconnect(request, _last(happenings)))
                )
            first = await cancel_on_disconnect(
                request, _first(happenings)
            )  # what goes wrong so early is told by the status
            return EventStream(
                write_events(completion, _rest(first, happenings), chat.stream_options),
                stack.pop_all(),
            )


async def _first(happenings: AsyncIterator[StreamEvent]) -> StreamEvent:
    return await anext(happenings)


async def _rest(
    first: StreamEvent, happenings: AsyncIterator[StreamEvent]
) -> AsyncIterator[StreamEvent]:
    yield first
    async for happening in happenings:
        yield happening


async def _last(happenings: AsyncIterator[StreamEvent]) -> Completed:
    async for happening in happenings:
        if isinstance(happening, Completed):
            return happening
    raise AssertionError("an answer ends with the whole of it, or with an error")


async def _reply_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return HTTPRefusal(error.status_code, str(error.detail)).response()


STOP_SECONDS = 5  # how long answers may go on once the server is told to stop
KEEP_ALIVE_SECONDS = 20


def serve(
    run: Path,
    host: str,
    port: int,
    videos: Sequence[Path] = (),
    token_file: Path | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Serve a run. What can be refused is refused before the model is loaded.

    Raises:
        ServerError: the server could be reached by others and has no token, or a folder, file or port cannot be used.
        RunError, WeightsError, ConfigError: as `Session.open`.
    """
    token = read_token(token_file) if token_file else ""
    AccessPolicy(host, token)
    folders = AllowedDirs(videos)
    with _listen(host, port) as listening:
        predictor = VideoPredictor.from_run(run, checkpoint, device, settings)
        names = predictor.config.serving.server.allowed_hosts.lower().split(",")
        access = AccessPolicy(
            host, token, frozenset(name.strip() for name in names if name.strip())
        )
        server = AppState(predictor, run.resolve().name, access, folders)
        shown = f"[{host}]" if ":" in host else host
        print(
            f"http://{shown}:{listening.getsockname()[1]}/ answers with {run}; Ctrl-C stops it",
            flush=True,
        )
        config = uvicorn.Config(
            build_app(server),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # the server has ended in order, and says again why
            uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ServerError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror}"
        ) from error
