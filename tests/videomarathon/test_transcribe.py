"""`lit-hour transcribe` over a small speech server that finds the tones in a sound."""

from __future__ import annotations

import io
import json
import re
import threading
import wave
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lit_hour.cli.main import main
from lit_hour.errors import TeacherError
from lit_hour.media.audio import SAMPLE_RATE, iter_wav_pieces
from lit_hour.media.subtitles import read_subtitles
from lit_hour.videomarathon import transcribe as transcribe_module
from tests.data.factories import write_video
from tests.videomarathon.factories import NOWHERE

TONES = ((1.0, 2.0), (3.5, 4.5), (6.25, 7.0))  # seconds
Answer = Callable[[np.ndarray], tuple[int, Any]]


def write_talk(path: Path, num_seconds: float = 8.0, sound_start: float = 0.0) -> None:
    """Write a video with tones at `TONES`; the sound may start later than the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(int(num_seconds * 44_100)) / 44_100  # (samples,)
    is_on = sum((seconds >= start) & (seconds < end) for start, end in TONES)
    samples = (np.sin(seconds * 440 * 2 * np.pi) * is_on * 20_000).astype(np.int16)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 32
        sound = container.add_stream("pcm_s16le", rate=44_100, layout="mono")
        for _ in range(int(num_seconds * 5)):
            image = np.zeros((32, 32, 3), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
        first = int(sound_start * 44_100)
        for start in range(first, len(samples), 4_410):
            piece = samples[None, start : start + 4_410]  # (1, samples)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44_100, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


def find_tones(samples: np.ndarray) -> tuple[int, Any]:
    """Return a segment for each tone, as a speech model does for sentences."""
    loud = np.abs(samples.astype(np.int32)).reshape(-1, 160).max(axis=1) > 5_000  # 10 ms each
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud, [0]]))) / 100
    segments = [
        {"id": number, "start": start, "end": end, "text": f" tone {number} "}
        for number, (start, end) in enumerate(edges.reshape(-1, 2).tolist())
    ]
    return 200, {"text": "", "duration": 1.0, "language": "en", "segments": segments}


class SpeechServer:
    """A speech server in threads of the test.

    Attributes:
        lengths: seconds of sound in each request.
    """

    def __init__(self, answer: Answer = find_tones) -> None:
        self.lengths: list[float] = []
        lengths = self.lengths

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                content = body[body.index(b"RIFF") :]
                assert b'name="model"' in body and b"verbose_json" in body
                with wave.open(io.BytesIO(content)) as sound:
                    assert sound.getframerate() == SAMPLE_RATE
                    samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
                lengths.append(len(samples) / SAMPLE_RATE)
                status, value = answer(samples[: len(samples) // 160 * 160])
                response = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def start() -> Iterator[Callable[..., SpeechServer]]:
    servers: list[SpeechServer] = []

    def start_server(*arguments: Any) -> SpeechServer:
        servers.append(SpeechServer(*arguments))
        return servers[-1]

    yield start_server
    for server in servers:
        server.close()


def run_transcribe(folder: Path, url: str, *words: str) -> None:
    retries = "videomarathon.client.max_retries=0"
    main(["transcribe", str(folder), "--server", url, "--model", "speech", retries, *words])


def assert_tones(file: Path, shift_seconds: float = 0.0) -> None:
    found = [(one.start_seconds, one.end_seconds) for one in read_subtitles(file)]
    expected = [(start + shift_seconds, end + shift_seconds) for start, end in TONES]
    assert np.array(found) == pytest.approx(np.array(expected), abs=0.03)


def test_speech_becomes_subtitles_beside_the_video(
    tmp_path: Path, start: Callable[..., SpeechServer], capsys: pytest.CaptureFixture[str]
) -> None:
    write_talk(tmp_path / "sub/talk.mkv")
    write_talk(tmp_path / "late.mkv", sound_start=0.5)
    write_video(tmp_path / "silent.mp4", num_seconds=1)
    (tmp_path / "known.mp4").write_bytes(b"not opened")
    (tmp_path / "known.vtt").write_text("WEBVTT\n")
    server = start()
    run_transcribe(tmp_path, server.url)
    assert_tones(tmp_path / "sub/talk.srt")
    assert_tones(tmp_path / "late.srt")  # times refer to the picture
    printed = capsys.readouterr().out
    assert (
        "2 videos transcribed, 1 had subtitles" in printed and "no speech in silent.mp4" in printed
    )
    assert len(server.lengths) == 2
    run_transcribe(tmp_path, server.url)
    assert len(server.lengths) == 2  # nothing is sent again


def test_long_sound_is_sent_in_pieces(
    tmp_path: Path, start: Callable[..., SpeechServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribe_module, "PIECE_SECONDS", 3.0)
    write_talk(tmp_path / "talk.mkv")
    server = start()
    run_transcribe(tmp_path, server.url)
    assert server.lengths == pytest.approx([3.0, 3.0, 2.0], abs=0.01)
    assert_tones(tmp_path / "talk.srt")
    starts = [seconds for seconds, _ in iter_wav_pieces(tmp_path / "talk.mkv", 3.0)]
    assert starts == pytest.approx([0.0, 3.0, 6.0], abs=0.001)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda samples: (200, {"text": "Hello"}), "no segments with start, end and text"),
        (lambda samples: (400, {"error": {"message": "too loud"}}), "too loud"),
        (lambda samples: (404, {"error": {"message": "no such model"}}), "no such model"),
    ],
)
def test_unusable_answer_is_named(
    tmp_path: Path, start: Callable[..., SpeechServer], answer: Answer, reason: str
) -> None:
    write_talk(tmp_path / "talk.mkv", 1.5)
    with pytest.raises(TeacherError, match=reason):
        run_transcribe(tmp_path, start(answer).url)
    assert not (tmp_path / "talk.srt").exists()


def test_damaged_video_is_listed_within_the_budget(
    tmp_path: Path, start: Callable[..., SpeechServer], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_talk(tmp_path / "talk.mkv")
    server = start()
    with pytest.raises(TeacherError, match=r"bad\.mp4.*videomarathon\.max_failed_videos=0"):
        run_transcribe(tmp_path, server.url)
    run_transcribe(tmp_path, server.url, "videomarathon.max_failed_videos=1")
    assert "failed bad.mp4" in capsys.readouterr().out and (tmp_path / "talk.srt").exists()


def test_missing_server_is_named(tmp_path: Path) -> None:
    write_talk(tmp_path / "talk.mkv", 1.5)
    with pytest.raises(TeacherError, match=re.escape(NOWHERE) + ".*does not answer"):
        run_transcribe(tmp_path, NOWHERE)
