"""The words of `python -m lit_hour serve` -> a server that runs until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from lit_hour.errors import ServerError
from lit_hour.serving.server.access import Access, read_token
from lit_hour.serving.server.app import build_app
from lit_hour.serving.server.parts import Server
from lit_hour.serving.server.videos import Folders
from lit_hour.serving.session import Session

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
    Access(host, token)
    folders = Folders(videos)
    with _listen(host, port) as listening:
        session = Session.open(run, checkpoint, device, settings)
        names = session.config.serving.server.host_names.lower().split(",")
        access = Access(host, token, frozenset(name.strip() for name in names if name.strip()))
        server = Server(session, run.resolve().name, access, folders)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}/ answers with {run}; Ctrl-C stops it", flush=True)
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
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ServerError(f"--host {host} --port {port} cannot be listened on: {error.strerror}") from error
