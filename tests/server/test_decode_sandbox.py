"""The decoding sandbox: exact frames, resource limits, and untrusted messages."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from typing import Literal

import pytest
import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.errors import VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.media.video_reader import load_video
from lit_hour.server import decode_sandbox
from lit_hour.server.decode_sandbox import DecodingCancelledError, check_video, decode_in_sandbox
from lit_hour.types import Frames
from tests.server.factories import make_clip
from tests.server.helpers import run_server, wait_for
from tests.server.malicious_worker import replay_script

VIDEO = VideoConfig(image_size=16, min_frames=4, max_frames=9)
CHUNK_FRAMES = 3


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clips") / "stored"
    file.write_bytes(make_clip())
    return file


def decode(file: Path, settings: ServerConfig | None = None) -> list[Frames]:
    with decode_in_sandbox(
        file, "walk.mp4", VIDEO, CHUNK_FRAMES, settings or ServerConfig(), Event()
    ) as video:
        return list(video.chunks())


@pytest.mark.parametrize("sampling", ["seconds", "published"])
def test_sandbox_frames_equal_those_of_load_video(
    file: Path, sampling: Literal["seconds", "published"]
) -> None:
    config = replace(VIDEO, sampling=sampling)
    frames, duration_seconds = load_video(file, config)
    with decode_in_sandbox(
        file, "walk.mp4", config, CHUNK_FRAMES, ServerConfig(), Event()
    ) as video:
        chunks = list(video.chunks())
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), frames.images)
    assert torch.equal(torch.cat([chunk.timestamps for chunk in chunks]), frames.timestamps)
    assert (video.duration_seconds, video.num_frames) == (duration_seconds, len(frames))
    assert [len(chunk) for chunk in chunks] == [3, 1]
    header = check_video(file, "walk.mp4", ServerConfig())
    assert (header.duration_seconds, header.width, header.height) == (duration_seconds, 96, 48)


def test_sandbox_reports_a_truncated_video_by_name(tmp_path: Path) -> None:
    truncated = tmp_path / "stored"
    content = make_clip(options={"movflags": "faststart"})
    truncated.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(VideoError, match=r"^walk\.mp4 is damaged or cut short"):
        decode(truncated)
    tolerant = VideoConfig(16, 4, 9, 16, on_decode_error="truncate")
    with decode_in_sandbox(
        truncated, "walk.mp4", tolerant, CHUNK_FRAMES, ServerConfig(), Event()
    ) as video:
        assert 0 < sum(len(chunk) for chunk in video.chunks()) <= video.num_frames
    assert video.warnings[0].startswith("walk.mp4 is damaged") and video.duration_seconds < 4


def test_sandbox_limits_time_and_ram(file: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"walk\.mp4 takes longer than 1e-05 s to decode"):
        decode(file, ServerConfig(decode_timeout_seconds=1e-5))
    large = tmp_path / "large"
    large.write_bytes(make_clip(codec="mpeg4", seconds=0.4, size=(3840, 2160)))
    assert check_video(large, "large.mp4", ServerConfig()).width == 3840
    with pytest.raises(VideoError, match=r"large\.mp4"):
        check_video(large, "large.mp4", ServerConfig(decode_ram_gb=0.005))


def test_sandbox_stops_decoding_a_cancelled_video(file: Path) -> None:
    cancelled = Event()
    with (
        pytest.raises(DecodingCancelledError),
        decode_in_sandbox(file, "w", VIDEO, CHUNK_FRAMES, ServerConfig(), cancelled) as video,
    ):
        video._channel._connection, _silent = multiprocessing.Pipe(duplex=False)
        Timer(0.2, cancelled.set).start()
        list(video.chunks())


def test_sandbox_rejects_messages_of_a_malicious_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_sandbox.decode_worker, "decode_video", replay_script)
    script = tmp_path / "script"
    opened = json.dumps({"kind": "opened", "num_frames": 4, "duration_seconds": 4.0})
    frames = json.dumps({"kind": "frames", "timestamps": [0.0]})
    invalid = "its decoder sent an invalid message"
    for text, message in (
        ("DIE", "its decoder crashed"),
        ("", invalid),
        ("\x80\x04pickled", invalid),
        ("[" * 100_000, invalid),
        ("[]", invalid),
        ("{}", invalid),
        ('{"kind": "frames", "timestamps": []}', "sent an unexpected message"),
        ('{"kind": "error", "reason": "no"}', "no"),
        ('{"kind": "opened", "num_frames": 4}', invalid),
        ('{"kind": "opened", "num_frames": 1e9, "duration_seconds": 1}', "more than video.max"),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": -1}', invalid),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": NaN}', invalid),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": "1"}', invalid),
        (f"{opened}\n{frames}\nfew", "images of another size"),
        (f"{opened}\n{frames}\n{'x' * 1000}", "its decoder crashed"),
        (f'{opened}\n{{"kind": "frames", "timestamps": ["x"]}}', invalid),
        (f'{opened}\n{{"kind": "frames", "timestamps": [0, 1, 2, 3]}}', "more frames than"),
        (f'{opened}\n{{"kind": "done"}}', invalid),
        ("x" * (decode_sandbox.MAX_MESSAGE_BYTES + 1), "its decoder crashed"),
    ):
        script.write_bytes(text.encode("latin-1"))
        with pytest.raises(VideoError) as raised:
            decode(script)
        assert message in str(raised.value), text[:100]
    script.write_bytes(b"HANG")
    with pytest.raises(VideoError, match="takes longer than 1 s"):
        decode(script, ServerConfig(decode_timeout_seconds=1.0))


def test_sandbox_process_ends_with_the_video(predictor: VideoPredictor, file: Path) -> None:
    with run_server(predictor) as server:
        video = server.upload(file.read_bytes()).json()["id"]
        server.wait_until_finished(video)
        wait_for(lambda: not multiprocessing.active_children())
