"""More than 500 uploads that are no videos, or broken ones: each gets a 4xx with a reason, and the server goes on answering."""

import gzip
import io
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from tests.server.clips import clip, sound
from tests.server.running import Reply, Running, running

CLIENTS = 4
Upload = tuple[str, bytes]


def truncated() -> Iterator[Upload]:
    """Cut anywhere between a tenth and three quarters of what they promise."""
    wholes = {
        "mp4": clip(),
        "faststart.mp4": clip(options={"movflags": "faststart"}),
        "mkv": clip("matroska"),
        "webm": clip("webm", "libvpx"),
        "avi": clip("avi", "mpeg4"),
        "flv": clip("flv"),
    }
    chance = random.Random(0)
    for name, whole in wholes.items():
        for place in range(50):
            yield f"cut_{place}.{name}", whole[: int(len(whole) * chance.uniform(0.1, 0.75))]


def renamed(chance: random.Random) -> Iterator[Upload]:
    """Something else, and noise, with and without the first bytes of a video."""
    video = clip()
    for place in range(80):
        noise = chance.randbytes(chance.randint(1, 5000))
        yield f"noise_{place}.mp4", noise
        yield f"noise_{place}.mkv", video[: chance.randint(4, 40)] + noise
    yield "page.mp4", b"<!DOCTYPE html><script>alert(1)</script>" * 50
    yield "picture.mp4", b"\x89PNG\r\n\x1a\n" + chance.randbytes(500)
    yield "program.mp4", b"\x7fELF\x02\x01\x01" + chance.randbytes(500)
    yield "list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "manifest.mpd", b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>'
    yield "subtitles.mkv", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n"


def bombs() -> Iterator[Upload]:
    """Kilobytes that unpack to much more."""
    zeros = gzip.compress(bytes(20_000_000))
    for place in range(10):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in range(place + 1):
                archive.writestr(f"{part}.mp4", bytes(1_000_000))
        yield f"bomb_{place}.zip", buffer.getvalue()
        yield f"bomb_{place}.mp4", gzip.compress(zeros)[: 3000 + place]


def hostile() -> Iterator[Upload]:
    """Frames of 8K, videos that last for days, sound alone, and nothing at all."""
    for form, codec in (
        ("mp4", "mpeg4"),
        ("matroska", "mpeg4"),
        ("avi", "mjpeg"),
        ("mp4", "libx264"),
    ):
        yield f"8k_{codec}.{form}", clip(form, codec, seconds=0.2, size=(7680, 4320))
    for gap_seconds in (3e4, 5e4, 8e4, 1e5):
        yield f"days_{gap_seconds:g}.webm", clip("webm", "libvpx", gap_seconds=gap_seconds)
        yield f"days_{gap_seconds:g}.mkv", clip("matroska", gap_seconds=gap_seconds)
    sounds = [
        sound("mp4", "aac"),
        sound("ogg", "libopus"),
        sound("wav", "pcm_s16le"),
        sound("matroska", "aac"),
    ]
    for place, heard in enumerate(sounds * 3):
        yield f"sound_{place}.mp4", heard
    for place in range(10):
        yield f"empty_{place}.mp4", b""
        yield f"zeros_{place}.mp4", bytes(1 << place)
    yield "large.mp4", clip() + bytes(3_000_000)


@pytest.fixture(scope="module")
def fuzzed(predictor: VideoPredictor) -> Iterator[Running]:
    limits = ServerConfig(
        max_upload_mb=3,
        max_videos=2 * CLIENTS,
        max_concurrent_uploads=CLIENTS,
        check_timeout_seconds=10.0,
    )
    with running(predictor, limits) as place:
        yield place


def bring(served: Running, upload: Upload) -> Reply:
    """What a client is told who sends a video and asks about it."""
    name, content = upload
    reply = served.upload(content, name)
    return reply if reply.status != 201 else served.chat(reply.json()["id"], "What?")


def test_every_bad_upload_is_refused_with_a_reason(fuzzed: Running) -> None:
    chance = random.Random(1)
    uploads = [*truncated(), *renamed(chance), *bombs(), *hostile()]
    assert len(uploads) >= 500
    chance.shuffle(uploads)
    with ThreadPoolExecutor(CLIENTS) as clients:
        replies = list(clients.map(lambda upload: bring(fuzzed, upload), uploads))
    wrong = [
        (name, reply.status, reply.body[:200])
        for (name, _), reply in zip(uploads, replies, strict=True)
        if not 400 <= reply.status < 500 or reply.status == 429 or len(reply.reason) < 20
    ]
    assert wrong == []
    assert fuzzed.gauge("lit_hour_upload_files") == 0
    video = fuzzed.upload(clip()).json()["id"]
    assert fuzzed.chat(video, "What?").status == 200


def test_bytes_that_are_changed_at_random_bring_nothing_down(fuzzed: Running) -> None:
    chance = random.Random(2)
    for form in ("mp4", "matroska"):
        for _ in range(15):
            content = bytearray(clip(form, seconds=1.0))
            for _ in range(chance.randint(1, 30)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            reply = bring(fuzzed, ("changed.mp4", bytes(content)))
            assert reply.status == 200 or (400 <= reply.status < 500 and reply.reason), reply.body
    assert fuzzed.get("/health").status == 200
