"""The HTTP server: `serve` starts it, `build_app` defines its routes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response

from lit_hour.errors import ServerError
from lit_hour.inference.describe import Description
from lit_hour.inference.description_formats import description_fields, to_webvtt
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessMiddleware, AccessPolicy, AllowedDirs, read_token
from lit_hour.server.chat_completions import create_completion
from lit_hour.server.chat_request import MediaPart
from lit_hour.server.chat_response import evidence_fields
from lit_hour.server.http_errors import EXCEPTION_HANDLERS
from lit_hour.server.metrics import CONTENT_TYPE_LATEST, CountResponses
from lit_hour.server.queueing import cancel_on_disconnect, client_address
from lit_hour.server.request_body import read_body
from lit_hour.server.state import AppState

MAX_PORT = 65535
GRACEFUL_SHUTDOWN_SECONDS = 5  # answers that take longer are cancelled
KEEP_ALIVE_SECONDS = 20
MAX_TOKEN_BYTES, MAX_URL_BYTES = 4096, 16_384
READ_METHODS = ["GET", "HEAD"]  # a proxy or a load balancer may ask for the header alone
STATIC_DIR = Path(__file__).parent / "static"
STATIC_FILES = {
    "/": STATIC_DIR / "index.html",
    **{f"/static/{path.name}": path for path in STATIC_DIR.iterdir() if path.suffix != ".html"},
}
MEDIA_TYPES = {  # for the player; never text/html, since the files come from clients
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "video/mp4"),
    **{".webm": "video/webm", ".mkv": "video/x-matroska", ".ogv": "video/ogg"},
}


def serve(
    run: Path,
    host: str,
    port: int,
    videos: Sequence[Path] = (),
    token_file: Path | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Serve a run until the process is interrupted. Arguments are checked before the model loads.

    Args:
        run: the run folder.
        host: address to listen on; any but loopback requires a token.
        port: to listen on; 0 for any free one.
        videos: directories whose videos clients may name.
        token_file: file with the token that clients must send.
        checkpoint: as for `VideoPredictor.from_run`.
        device: as for `VideoPredictor.from_run`.
        overrides: as for `VideoPredictor.from_run`.

    Raises:
        ServerError: the server would be reachable without a token, or a directory, file or port
            cannot be used.
        RunError, WeightsError, ConfigError: as `VideoPredictor.from_run`.
    """
    token = read_token(token_file) if token_file else ""
    AccessPolicy(host, token)
    allowed_dirs = AllowedDirs(videos)
    with _listen(host, port) as listener:
        predictor = VideoPredictor.from_run(run, checkpoint, device, overrides)
        settings = predictor.config.serving.server
        host_names, origins = map(_split_list, (settings.allowed_hosts, settings.allow_origins))
        policy = AccessPolicy(host, token, host_names, origins)
        state = AppState(predictor, run.resolve().name, policy, allowed_dirs)
        url_host = f"[{host}]" if ":" in host else host
        url = f"http://{url_host}:{listener.getsockname()[1]}/"
        print(f"{url} serves {run}. Press Ctrl-C to stop.", flush=True)
        config = uvicorn.Config(
            build_app(state),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly shutdown
            uvicorn.Server(config).run(sockets=[listener])


def build_app(state: AppState) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    # without the documentation pages, which load scripts from other hosts
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    for exception_type, handler in EXCEPTION_HANDLERS.items():
        app.add_exception_handler(exception_type, handler)
    _add_page_routes(app)
    _add_status_routes(app, state)
    _add_upload_routes(app, state)
    _add_video_routes(app, state)
    _add_chat_routes(app, state)
    app.add_middleware(CountResponses, metrics=state.metrics)
    app.add_middleware(AccessMiddleware, policy=state.policy)  # added last, so it runs first
    return app


def _add_page_routes(app: FastAPI) -> None:
    async def static_file(request: Request) -> FileResponse:
        path = STATIC_FILES[request.url.path]
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    for path in STATIC_FILES:
        app.add_api_route(path, static_file, methods=READ_METHODS, response_model=None)


def _add_status_routes(app: FastAPI, state: AppState) -> None:
    settings, policy = state.settings, state.policy

    @app.api_route("/health", methods=READ_METHODS)
    async def health() -> dict[str, str]:
        """Liveness: the process answers."""
        return {"status": "ok"}

    @app.api_route("/ready", methods=READ_METHODS)
    async def ready() -> dict[str, str]:
        """Readiness: one more question would be admitted."""
        try:
            state.queue.check_capacity()
        except HTTPException as error:
            raise HTTPException(503, error.detail, error.headers) from error
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/login")
    async def login(request: Request) -> Response:
        token = await read_body(request, MAX_TOKEN_BYTES, settings.upload_idle_seconds)
        if not policy.is_valid_token(token.decode(errors="replace").strip()):
            raise HTTPException(401, "The token is wrong.")
        response = Response(status_code=204)
        response.set_cookie(
            policy.cookie_name(request.headers),
            policy.session_secret,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    model = {"id": state.model_name, "object": "model", "owned_by": "lit_hour", "created": 0}

    @app.api_route("/v1/models", methods=READ_METHODS)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.api_route("/v1/models/{model_id:path}", methods=READ_METHODS)
    async def get_model(model_id: str) -> dict[str, Any]:
        state.check_model(model_id)
        return model

    @app.get("/v1/server")
    async def server_info() -> dict[str, Any]:
        return {
            "model": state.model_name,
            "max_upload_mb": settings.max_upload_mb,
            "max_video_seconds": settings.max_video_seconds,
        }


def _add_upload_routes(app: FastAPI, state: AppState) -> None:
    @app.get("/v1/videos")
    async def list_videos() -> dict[str, Any]:
        files = await asyncio.to_thread(state.allowed_dirs.list_videos)
        return {
            "object": "list",
            "data": [video.to_json() for video in state.videos.list()],
            "files": [{"name": name, "url": path.as_uri()} for path, name in files],
        }

    @app.post("/v1/videos", status_code=201)
    async def upload_video(request: Request, name: str = "", live: bool = False) -> dict[str, Any]:
        return (await state.media.add_upload(request, name, live)).to_json()

    @app.post("/v1/videos/open")
    async def open_video(request: Request) -> dict[str, Any]:
        body = await read_body(request, MAX_URL_BYTES, state.settings.upload_idle_seconds)
        part = MediaPart("video", body.decode(errors="replace").strip(), "body")
        return (await state.media.open_video(request, part, {})).to_json()

    @app.post("/v1/videos/{video_id}/append")
    async def append_video(request: Request, video_id: str) -> dict[str, Any]:
        return (await state.media.append_upload(request, state.videos.get(video_id))).to_json()


def _add_video_routes(app: FastAPI, state: AppState) -> None:
    @app.get("/v1/videos/{video_id}")
    async def get_video(video_id: str) -> dict[str, Any]:
        return state.videos.get(video_id).to_json()

    @app.delete("/v1/videos/{video_id}")
    async def delete_video(video_id: str) -> dict[str, Any]:
        state.videos.remove(state.videos.get(video_id))
        return {"id": video_id, "object": "video", "deleted": True}

    @app.get("/v1/videos/{video_id}/file")
    async def get_file(video_id: str) -> FileResponse:
        video = state.videos.get(video_id)
        if not video.path.is_file():
            raise HTTPException(404, "The file of this video no longer exists.")
        media_type = MEDIA_TYPES.get(Path(video.name).suffix.lower(), "application/octet-stream")
        headers = {"Content-Security-Policy": "sandbox"}
        return FileResponse(video.path, media_type=media_type, headers=headers)

    @app.get("/v1/videos/{video_id}/description")
    async def get_description(request: Request, video_id: str) -> dict[str, Any]:
        description = await _describe(request, video_id)
        return {"id": video_id, "object": "video.description", **description_fields(description)}

    @app.get("/v1/videos/{video_id}/chapters.vtt")
    async def get_chapters(request: Request, video_id: str) -> Response:
        description = await _describe(request, video_id)
        return Response(to_webvtt(description), media_type="text/vtt; charset=utf-8")

    async def _describe(request: Request, video_id: str) -> Description:
        describing = state.descriptions.describe(state.videos.get(video_id))
        return await cancel_on_disconnect(request, describing)

    @app.get("/v1/videos/{video_id}/thumbnails/{index}")
    async def get_thumbnail(video_id: str, index: int) -> Response:
        thumbnails = state.videos.get(video_id).thumbnails
        if not 0 <= index < len(thumbnails):
            raise HTTPException(404, f"This video has {len(thumbnails)} thumbnails.")
        _, jpeg = thumbnails[index]
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)


def _add_chat_routes(app: FastAPI, state: AppState) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await create_completion(request, state)

    @app.get("/v1/chat/completions/{completion_id}/evidence")
    async def get_evidence(request: Request, completion_id: str) -> dict[str, Any]:
        work = state.generation.attribute(completion_id, client_address(request))
        attribution = await cancel_on_disconnect(request, work)
        return {
            "id": completion_id,
            "object": "chat.completion.evidence",
            "evidence": evidence_fields(attribution),
        }


def _split_list(setting: str) -> frozenset[str]:
    return frozenset(name.strip() for name in setting.lower().split(",") if name.strip())


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:  # the system would take the remainder
        raise ServerError(f"--port {port} must be a port from 0 to {MAX_PORT}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ServerError(
            f"Cannot listen on --host {host} --port {port}: {error.strerror}."
        ) from error
