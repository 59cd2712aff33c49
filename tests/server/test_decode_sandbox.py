"""Decoding in a process of its own: what it may take, and that what it says is not believed."""

import json
import multiprocessing
from pathlib import Path
from threading import Event, Timer

import pytest
import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.errors import VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.media.frame_sampling import load_video
from lit_hour.server import decode_sandbox as decoding
from lit_hour.server.decode_sandbox import DecodingCancelledError, check_video, decode_in_sandbox
from tests.server.clips import clip
from tests.server.confessing import confess
from tests.server.running import running, wait_for

VIDEO = VideoConfig(image_size=16, min_frames=4, max_frames=9)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clips") / "stored"
    file.write_bytes(clip())
    return file


def read(
    file: Path,
    settings: ServerConfig | None = None,
    video: VideoConfig = VIDEO,
    cancelled: Event | None = None,
) -> list:
    with decode_in_sandbox(
        file, "walk.mp4", video, 3, settings or ServerConfig(), cancelled or Event()
    ) as apart:
        return list(apart.chunks())


def test_frames_are_those_that_are_decoded_here(file: Path) -> None:
    frames, duration_seconds = load_video(file, VIDEO)
    with decode_in_sandbox(file, "walk.mp4", VIDEO, 3, ServerConfig(), Event()) as apart:
        chunks = list(apart.chunks())
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), frames.images)
    assert torch.equal(torch.cat([chunk.timestamps for chunk in chunks]), frames.timestamps)
    assert (apart.duration_seconds, apart.num_frames) == (duration_seconds, len(frames))
    assert [len(chunk) for chunk in chunks] == [3, 1]
    header = check_video(file, "walk.mp4", ServerConfig())
    assert (header.duration_seconds, header.width, header.height) == (duration_seconds, 96, 48)


def test_a_damaged_video_is_refused_by_its_name_or_used_with_a_note(tmp_path: Path) -> None:
    cut = tmp_path / "stored"
    whole = clip(options={"movflags": "faststart"})
    cut.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(VideoError, match=r"^walk\.mp4 is damaged or cut short"):
        read(cut)
    with decode_in_sandbox(
        cut,
        "walk.mp4",
        VideoConfig(16, 4, 9, 16, on_decode_error="truncate"),
        3,
        ServerConfig(),
        Event(),
    ) as apart:
        assert 0 < sum(len(chunk) for chunk in apart.chunks()) < apart.num_frames
    assert apart.warnings[0].startswith("walk.mp4 is damaged") and apart.duration_seconds < 4


def test_time_and_memory_are_limited(file: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"walk\.mp4 takes longer than 1e-05 s to decode"):
        read(file, ServerConfig(decode_timeout_seconds=1e-5))
    large = tmp_path / "large"
    large.write_bytes(clip(codec="mpeg4", seconds=0.4, size=(3840, 2160)))
    assert check_video(large, "large.mp4", ServerConfig()).width == 3840
    with pytest.raises(VideoError, match=r"large\.mp4"):
        check_video(large, "large.mp4", ServerConfig(decode_ram_gb=0.005))


def test_a_video_that_nobody_wants_any_more_is_not_read(file: Path) -> None:
    cancelled = Event()
    with (
        pytest.raises(DecodingCancelledError),
        decode_in_sandbox(file, "w", VIDEO, 3, ServerConfig(), cancelled) as apart,
    ):
        apart._apart._messages, _silent = multiprocessing.Pipe(duplex=False)
        Timer(0.2, cancelled.set).start()
        list(apart.chunks())


OPENED = json.dumps({"kind": "opened", "num_frames": 4, "duration_seconds": 4.0})
FRAMES = json.dumps({"kind": "frames", "timestamps": [0.0]})


@pytest.mark.parametrize(
    ("said", "reason"),
    (
        ("DIE", "decoding it broke off"),
        ("HANG", "takes longer than 2 s"),
        ("", "makes no sense"),
        ("\x80\x04pickled", "makes no sense"),
        ("[" * 100_000, "makes no sense"),
        ("[]", "makes no sense"),
        ("{}", "makes no sense"),
        ('{"kind": "frames", "timestamps": []}', "nobody asked for"),
        ('{"kind": "refused", "reason": "no"}', "no"),
        ('{"kind": "opened", "num_frames": 4}', "makes no sense"),
        (
            '{"kind": "opened", "num_frames": 1e9, "duration_seconds": 1}',
            "more than video.max_frames",
        ),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": -1}', "makes no sense"),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": NaN}', "makes no sense"),
        ('{"kind": "opened", "num_frames": 4, "duration_seconds": "1"}', "makes no sense"),
        (f"{OPENED}\n{FRAMES}\nfew", "pictures of another size"),
        (f"{OPENED}\n{FRAMES}\n{'x' * 1000}", "broke off"),
        (f'{OPENED}\n{{"kind": "frames", "timestamps": ["x"]}}', "makes no sense"),
        (
            f'{OPENED}\n{{"kind": "frames", "timestamps": [0, 1, 2, 3]}}',
            "more frames than were asked for",
        ),
        (f'{OPENED}\n{{"kind": "read", "duration_seconds": 1}}', "makes no sense"),
        ("x" * (decoding.MAX_MESSAGE_BYTES + 1), "broke off"),
    ),
)
def test_nothing_that_the_process_says_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str
) -> None:
    script = tmp_path / "script"
    script.write_bytes(said.encode("latin-1"))
    monkeypatch.setattr(decoding.decoder, "decode_video", confess)
    with pytest.raises(VideoError, match=reason):
        read(script, ServerConfig(decode_timeout_seconds=2.0))


def test_no_process_is_left(predictor: VideoPredictor, file: Path) -> None:
    with running(predictor) as place:
        video = place.upload(file.read_bytes()).json()["id"]
        place.remembered(video)
        wait_for(lambda: not multiprocessing.active_children())
