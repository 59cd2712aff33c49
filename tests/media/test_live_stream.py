"""Live sources against `SampledVideo`, which reads the same packets from a file."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from threading import Timer

import av
import pytest
import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import ConfigError, VideoError
from lit_hour.media.live_stream import LiveStream
from lit_hour.media.video_reader import load_video
from lit_hour.types import Frames
from tests.media.helpers import loop_video, write_moving
from tests.media.live_sources import growing_file, hls_stream, http_stream, named_pipe, rtsp_stream

CONFIG = VideoConfig(image_size=32, min_frames=1, on_decode_error="truncate")
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


def read_live(
    source: str | Path, stall_seconds: float = 0.0, **settings
) -> tuple[Frames, LiveStream]:
    stream = LiveStream(str(source), replace(CONFIG, **settings), stall_seconds)
    sampled = list(stream.frames())
    images = torch.stack([image for image, _ in sampled])  # (frames, 3, size, size)
    return Frames(images, torch.tensor([seconds for _, seconds in sampled])), stream


def assert_equals_file(frames: Frames, stream: LiveStream, file: Path, **settings) -> None:
    expected, duration_seconds = load_video(file, replace(CONFIG, **settings))
    assert torch.equal(frames.timestamps, expected.timestamps)
    assert torch.equal(frames.images, expected.images)
    assert stream.duration_seconds == pytest.approx(duration_seconds, abs=1e-9)


@pytest.fixture(scope="module")
def ts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of H.264 with B-frames."""
    return write_moving(tmp_path_factory.mktemp("live") / "camera.ts", 150, g="25")


@pytest.mark.parametrize("suffix", ("ts", "mkv", "flv", "avi", "h264", "mp4"))
@pytest.mark.parametrize("fps", (1.0, 3.0))
def test_equals_the_file_in_every_container(tmp_path: Path, suffix: str, fps: float) -> None:
    file = write_moving(tmp_path / f"camera.{suffix}", 83, g="25")
    if suffix == "mp4":
        file = fragment(file, tmp_path / "fragmented.mp4")
    frames, stream = read_live(file, fps=fps)
    assert_equals_file(frames, stream, file, fps=fps)
    assert len(frames) == (4 if fps == 1 else 10)


def fragment(source: Path, target: Path) -> Path:
    """Copy the packets of a video to an mp4 whose index comes first."""
    with (
        av.open(str(source)) as clip,
        av.open(str(target), "w", container_options=FRAGMENTED) as container,
    ):
        stream = container.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(clip.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return target


def test_equals_the_file_at_a_variable_frame_rate_and_after_a_late_start(tmp_path: Path) -> None:
    times = [number * 2 + (60 if number > 40 else 0) + 25 for number in range(83)]
    file = write_moving(tmp_path / "camera.mkv", 83, times)
    frames, stream = read_live(file)
    assert_equals_file(frames, stream, file)


def test_timestamps_that_start_again_follow_the_part_before(ts: Path, tmp_path: Path) -> None:
    file = tmp_path / "joined.ts"
    file.write_bytes(3 * ts.read_bytes())
    frames, stream = read_live(file)
    assert_equals_file(frames, stream, file)
    assert len(frames) == 18


@pytest.mark.parametrize("is_keyframe", (True, False))
def test_absurd_timestamps_cost_no_time(ts: Path, tmp_path: Path, is_keyframe: bool) -> None:
    """All times from a keyframe on, or the presentation time of one other frame, are too late."""
    file, wrong = tmp_path / "camera.mkv", 50 if is_keyframe else 63
    with av.open(str(ts)) as clip, av.open(str(file), "w") as container:
        source = clip.streams.video[0]
        copy = container.add_stream_from_template(source)
        for number, packet in enumerate(packet for packet in clip.demux(source) if packet.size):
            packet.stream, late = copy, round(10**6 / packet.time_base)
            if number == wrong or (is_keyframe and number > wrong):
                packet.pts += late
            if is_keyframe and number >= wrong:
                packet.dts += late
            container.mux(packet)
    frames, stream = read_live(file)
    assert 5 <= len(frames) <= 7 and 5.5 < stream.duration_seconds < 7.5


def test_an_absurd_duration_of_the_last_frame_costs_no_time(tmp_path: Path) -> None:
    file = fragment(write_moving(tmp_path / "camera.mp4", 50, g="25"), tmp_path / "live.mp4")
    content = bytearray(file.read_bytes())
    # "tfhd", flags for an offset and a default duration, track 1, and the offset stand before it
    duration = content.rindex(b"tfhd") + 20
    ticks = int.from_bytes(content[duration : duration + 4], "big")
    assert 0 < ticks < 90_000 and content.rindex(b"tfhd") > content.index(b"tfhd")
    content[duration : duration + 4] = (2**30).to_bytes(4, "big")
    file.write_bytes(content)
    frames, stream = read_live(file)
    assert len(frames) == 2 and stream.duration_seconds == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    "source", ("pipe", pytest.param("growing", marks=pytest.mark.slow), "http", "hls", "rtsp")
)
def test_every_kind_of_source_gives_the_same_frames(ts: Path, tmp_path: Path, source: str) -> None:
    content = ts.read_bytes()
    sources = {
        "pipe": lambda: named_pipe(tmp_path / "pipe", content, chunk_bytes=777),
        "growing": lambda: growing_file(tmp_path / "growing.ts", content, 5),
        "http": lambda: http_stream(content),
        "hls": lambda: hls_stream(ts, tmp_path / "hls"),
        "rtsp": lambda: rtsp_stream(content),
    }
    with sources[source]() as location:
        frames, stream = read_live(location, 0.5 if source == "growing" else 20.0)
    if source == "rtsp":  # FFmpeg drops the last TS packet of a connection that is closed
        stream.duration_seconds += 1 / 25
    assert_equals_file(frames, stream, ts)
    assert "secret" not in stream.name


def test_standard_input_is_read_to_its_end(ts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ts.open() as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        frames, stream = read_live("-", 20.0)
    assert_equals_file(frames, stream, ts)
    assert stream.end_reason == "it was closed"


@pytest.mark.parametrize("source", ("pipe", pytest.param("http", marks=pytest.mark.slow)))
def test_a_source_that_stalls_ends_and_keeps_what_was_read(
    ts: Path, tmp_path: Path, source: str
) -> None:
    content = ts.read_bytes()
    sources = {
        "pipe": lambda: named_pipe(tmp_path / "pipe", content, open_seconds=0.6),
        "http": lambda: http_stream(content, stalls=True),
    }
    stall_seconds = {"pipe": 0.3, "http": 1.0}[source]
    with sources[source]() as location:
        frames, stream = read_live(location, stall_seconds)
    assert_equals_file(frames, stream, ts)
    assert stream.end_reason == f"it sent nothing for {stall_seconds:g} s"


def test_a_source_that_breaks_off_inside_a_frame_keeps_the_frames_before(
    ts: Path, tmp_path: Path
) -> None:
    complete, _ = read_live(ts)
    cut = tmp_path / "cut.ts"
    content = ts.read_bytes()
    for share in (0.3, 0.55, 0.9):
        cut.write_bytes(content[: int(share * len(content))])
        frames, stream = read_live(cut)
        assert share * 6 - 1.5 < len(frames) <= share * 6 + 1.5
        assert torch.equal(frames.images[:-1], complete.images[: len(frames) - 1])
        assert stream.duration_seconds < 6


def test_damage_costs_no_frame_before_it_and_reading_goes_on(ts: Path, tmp_path: Path) -> None:
    complete, _ = read_live(ts)
    content = bytearray(ts.read_bytes())
    start, end = int(0.5 * len(content)), int(0.6 * len(content))
    content[start:end] = os.urandom(end - start)
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(content)
    frames, stream = read_live(damaged)
    assert torch.equal(frames.images[:3], complete.images[:3])
    assert len(frames) in (5, 6) and stream.duration_seconds > 5
    assert stream.end_reason == "it was closed" or "nothing" in stream.end_reason


def test_stop_ends_an_idle_source_at_once(ts: Path, tmp_path: Path) -> None:
    with named_pipe(tmp_path / "pipe", ts.read_bytes(), open_seconds=0.4) as pipe:
        stream = LiveStream(str(pipe), CONFIG, stall_seconds=60)
        timer = Timer(0.2, stream.stop)
        timer.start()
        assert len(list(stream.frames())) == 6
    assert stream.end_reason == "it was stopped"


def test_a_file_that_becomes_shorter_ends(ts: Path, tmp_path: Path) -> None:
    file = tmp_path / "camera.ts"
    file.write_bytes(ts.read_bytes())
    timer = Timer(0.3, lambda: os.truncate(file, 10))
    timer.start()
    frames, stream = read_live(file, 20.0)
    assert len(frames) == 6 and stream.end_reason == "the file became shorter"


def test_sources_that_cannot_be_read_are_refused(
    ts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_video(ts, plain := tmp_path / "plain.mp4", 60)
    (tmp_path / "text.ts").write_text("no video " * 1000)
    (tmp_path / "empty.ts").touch()
    os.mkfifo(tmp_path / "silent")
    for source, message in (
        (tmp_path / "none.ts", r"none\.ts does not exist"),
        (tmp_path, "is a folder"),
        (
            plain,
            r"No frame of .*plain\.mp4 can be decoded: it broke off .*fragmented mp4",
        ),
        (tmp_path / "text.ts", "cannot be read as a live video"),
        (tmp_path / "empty.ts", "cannot be read as a live video .*it sent nothing for 0.2 s"),
        (tmp_path / "silent", "cannot be read as a live video .*it sent nothing for 0.2 s"),
        ("http://127.0.0.1:9/live.ts", "cannot be read as a live video"),
        ("concat:/etc/passwd", "does not exist"),
        ("gopher://127.0.0.1/x", "cannot be read"),
        ("file:///etc/passwd", "cannot be read"),
    ):
        with pytest.raises(VideoError, match=message):
            read_live(source, 0.2)
    with pytest.raises(ConfigError, match=r"video\.sampling=published needs the end of a video"):
        read_live(ts, sampling="published")
