"""Invalid uploads: each gets a 4xx with a reason, and the server keeps answering."""

import gzip
import io
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from tests.server.factories import make_audio_file, make_clip
from tests.server.helpers import Response, RunningServer, run_server

NUM_CLIENTS = 4
Upload = tuple[str, bytes]


def truncated_files(generator: random.Random) -> Iterator[Upload]:
    """Videos of six containers, cut to between a tenth and three quarters."""
    files = {
        "mp4": make_clip(),
        "faststart.mp4": make_clip(options={"movflags": "faststart"}),
        "mkv": make_clip("matroska"),
        "webm": make_clip("webm", "libvpx"),
        "avi": make_clip("avi", "mpeg4"),
        "flv": make_clip("flv"),
    }
    for suffix, content in files.items():
        for index in range(50):
            length = int(len(content) * generator.uniform(0.1, 0.75))
            yield f"cut_{index}.{suffix}", content[:length]


def foreign_files(generator: random.Random) -> Iterator[Upload]:
    """Files of other types, and noise with and without the first bytes of a video."""
    video = make_clip()
    for index in range(80):
        noise = generator.randbytes(generator.randint(1, 5000))
        yield f"noise_{index}.mp4", noise
        yield f"noise_{index}.mkv", video[: generator.randint(4, 40)] + noise
    yield "page.mp4", b"<!DOCTYPE html><script>alert(1)</script>" * 50
    yield "picture.mp4", b"\x89PNG\r\n\x1a\n" + generator.randbytes(500)
    yield "program.mp4", b"\x7fELF\x02\x01\x01" + generator.randbytes(500)
    yield "list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "manifest.mpd", b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>'
    yield "subtitles.mkv", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n"


def archive_bombs() -> Iterator[Upload]:
    """Kilobytes that unpack to megabytes."""
    zeros = gzip.compress(bytes(20_000_000))
    for index in range(10):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in range(index + 1):
                archive.writestr(f"{member}.mp4", bytes(1_000_000))
        yield f"bomb_{index}.zip", buffer.getvalue()
        yield f"bomb_{index}.mp4", gzip.compress(zeros)[: 3000 + index]


def extreme_files() -> Iterator[Upload]:
    """Frames of 8K, videos of days, audio only, and empty files."""
    for container_format, codec in (
        ("mp4", "mpeg4"),
        ("matroska", "mpeg4"),
        ("avi", "mjpeg"),
        ("mp4", "libx264"),
    ):
        content = make_clip(container_format, codec, seconds=0.2, size=(7680, 4320))
        yield f"8k_{codec}.{container_format}", content
    for gap_seconds in (3e4, 5e4, 8e4, 1e5):
        yield f"days_{gap_seconds:g}.webm", make_clip("webm", "libvpx", gap_seconds=gap_seconds)
        yield f"days_{gap_seconds:g}.mkv", make_clip("matroska", gap_seconds=gap_seconds)
    audio_files = [
        make_audio_file("mp4", "aac"),
        make_audio_file("ogg", "libopus"),
        make_audio_file("wav", "pcm_s16le"),
        make_audio_file("matroska", "aac"),
    ]
    for index, content in enumerate(audio_files * 3):
        yield f"audio_{index}.mp4", content
    for index in range(10):
        yield f"empty_{index}.mp4", b""
        yield f"zeros_{index}.mp4", bytes(1 << index)
    yield "large.mp4", make_clip() + bytes(3_000_000)


@pytest.fixture(scope="module")
def limited_server(predictor: VideoPredictor) -> Iterator[RunningServer]:
    limits = ServerConfig(
        max_upload_mb=3,
        max_videos=2 * NUM_CLIENTS,
        max_concurrent_uploads=NUM_CLIENTS,
        check_timeout_seconds=10.0,
    )
    with run_server(predictor, limits) as server:
        yield server


def upload_and_ask(server: RunningServer, upload: Upload) -> Response:
    """Return the error of the upload, or the answer to a question about it."""
    name, content = upload
    response = server.upload(content, name)
    return server.chat(response.json()["id"], "What?") if response.status == 201 else response


def check_rejections(server: RunningServer, uploads: list[Upload]) -> None:
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        responses = clients.map(lambda upload: upload_and_ask(server, upload), uploads)
        for (name, _), response in zip(uploads, responses, strict=True):
            assert 400 <= response.status < 500 and response.status != 429, (name, response)
            assert len(response.error) >= 20, (name, response)
    assert server.metric("lit_hour_upload_files") == 0
    video = server.upload(make_clip()).json()["id"]
    assert server.chat(video, "What?").status == 200


def test_upload_rejects_a_sample_of_invalid_files(limited_server: RunningServer) -> None:
    generator = random.Random(0)
    uploads = [
        *[upload for index, upload in enumerate(truncated_files(generator)) if index % 50 == 0],
        *list(foreign_files(generator))[-9:],
        *list(archive_bombs())[:2],
        ("audio.mp4", make_audio_file("mp4", "aac")),
        ("days.webm", make_clip("webm", "libvpx", gap_seconds=8e4)),
        ("empty.mp4", b""),
        ("large.mp4", make_clip() + bytes(3_000_000)),
    ]
    check_rejections(limited_server, uploads)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_upload_rejects_all_invalid_files(limited_server: RunningServer) -> None:
    generator = random.Random(1)
    uploads = [
        *truncated_files(random.Random(0)),
        *foreign_files(generator),
        *archive_bombs(),
        *extreme_files(),
    ]
    assert len(uploads) >= 500
    generator.shuffle(uploads)
    check_rejections(limited_server, uploads)


@pytest.mark.slow
def test_random_byte_changes_do_not_crash_the_server(limited_server: RunningServer) -> None:
    generator = random.Random(2)
    for container_format in ("mp4", "matroska"):
        for _ in range(15):
            content = bytearray(make_clip(container_format, seconds=1.0))
            for _ in range(generator.randint(1, 30)):
                content[generator.randrange(len(content))] = generator.randrange(256)
            response = upload_and_ask(limited_server, ("changed.mp4", bytes(content)))
            is_error = 400 <= response.status < 500 and response.error
            assert response.status == 200 or is_error, response
    assert limited_server.get("/health").status == 200
