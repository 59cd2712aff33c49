"""Live sources on this machine: a pipe, a file that grows, and servers for HTTP and RTSP."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av

from tests.helpers.http_server import run_in_thread

TS_PACKET_BYTES = 188
RTP_TS_PACKETS = 7


@contextmanager
def write_in_thread(write: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread, and wait for it at the end."""
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def named_pipe(
    path: Path, content: bytes, chunk_bytes: int = 5000, open_seconds: float = 0.0
) -> Iterator[Path]:
    """Send bytes through a named pipe, which stays open for a while after them."""
    os.mkfifo(path)

    def write() -> None:
        # a reader may leave first
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            for start in range(0, len(content), chunk_bytes):
                pipe.write(content[start : start + chunk_bytes])
            time.sleep(open_seconds)

    with write_in_thread(write):
        yield path


@contextmanager
def growing_file(path: Path, content: bytes, num_parts: int) -> Iterator[Path]:
    """Append bytes to a file, part by part."""
    size = -(-len(content) // num_parts)
    path.write_bytes(content[:size])

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for start in range(size, len(content), size):
                time.sleep(0.1)
                file.write(content[start : start + size])

    with write_in_thread(write):
        yield path


@contextmanager
def http_stream(content: bytes, stalls: bool = False) -> Iterator[str]:
    """Serve bytes without a length, as a live stream; afterwards close, or send nothing more."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
            if stalls:
                released.wait(30)

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing."""

    with run_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/live.ts?token=secret"
        released.set()


@contextmanager
def hls_stream(source: Path, folder: Path) -> Iterator[str]:
    """Serve a video in segments of two seconds, with their playlist."""
    folder.mkdir()
    playlist, options = folder / "live.m3u8", {"hls_time": "2", "hls_list_size": "0"}
    with (
        av.open(str(source)) as clip,
        av.open(str(playlist), "w", format="hls", options=options) as container,
    ):
        stream = container.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(clip.streams.video[0]):
            if packet.size:
                packet.stream = stream
                container.mux(packet)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing."""

    handler = partial(Handler, directory=str(folder))
    with run_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/live.m3u8"


@contextmanager
def rtsp_stream(content: bytes) -> Iterator[str]:
    """Serve an MPEG transport stream once by RTSP, as RTP inside its TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/camera"

        def serve() -> None:
            with listener.accept()[0] as connection:
                _serve_rtsp(connection, content)

        with write_in_thread(serve):
            yield url


def _serve_rtsp(connection: socket.socket, content: bytes) -> None:
    requests = connection.makefile("rb")
    description = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
    while line := requests.readline():
        method, headers = line.split()[0].decode(), {}
        while header := requests.readline().strip():
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        lines = [f"CSeq: {headers['cseq']}"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = f"{description}a=control:track\r\n"
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        else:
            lines.append("Session: 1")
        connection.sendall(("\r\n".join(["RTSP/1.0 200 OK", *lines]) + "\r\n\r\n" + body).encode())
        if method == "PLAY":
            size = RTP_TS_PACKETS * TS_PACKET_BYTES
            for number, start in enumerate(range(0, len(content), size)):
                payload = content[start : start + size]
                header = bytes([0x80, 33]) + number.to_bytes(2, "big") + bytes(4) + b"live"
                packet = header + payload
                connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            return
