"""Which frame is on screen when, and what reading it takes."""

import os
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Generator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.schema import VideoConfig
from lit_hour.media import frame_conversion
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import load_video, read_frames, sample_timestamps
from tests import REPOSITORY
from tests.media.helpers import (
    loop_video,
    numbered_image,
    numbered_images,
    numbers_in,
    read_all,
    write_video,
)

# Which frame is on screen


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("first_tick", [0, 1000])
def test_read_frames_returns_the_frame_on_screen_at_variable_rate(
    tmp_path: Path, suffix: str, first_tick: int
) -> None:
    ticks = [0, 1, 2, 10, 11, 30, 31, 32, 33, 60, 61, 75]
    times = [first_tick + tick for tick in ticks]
    path = write_video(tmp_path / f"variable.{suffix}", numbered_images(len(ticks)), times)
    # The mp4 header counts decoding times; with such gaps it ends before the last frame.
    timestamps = [index / 20 for index in range(150) if index / 20 < probe(path).duration_seconds]
    frames = read_all(path, timestamps)
    assert len(timestamps) > 120
    assert numbers_in(frames.images) == [
        bisect_right(ticks, seconds * 10) - 1 for seconds in timestamps
    ]
    assert frames.images.dtype == torch.uint8 and frames.timestamps.dtype == torch.float32
    assert frames.timestamps.tolist() == pytest.approx(timestamps)


def test_read_frames_fills_every_chunk_but_the_last(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(20))
    chunks = list(
        read_frames(path, [index / 10 for index in range(20)], 32, "error", chunk_frames=8)
    )
    assert [chunk.images.shape for chunk in chunks] == [
        (8, 3, 32, 32),
        (8, 3, 32, 32),
        (4, 3, 32, 32),
    ]


def test_read_frames_resizes_each_wanted_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized: list[Tensor] = []

    def count(image: Image.Image, image_size: int) -> Tensor:
        resized.append(resize_image(image, image_size))
        return resized[-1]

    resize_image = frame_conversion.resize_image
    monkeypatch.setattr(frame_conversion, "resize_image", count)
    path = write_video(tmp_path / "video.mp4", numbered_images(50))
    frames = read_all(path, [0.0, 0.01, 0.02, 0.09, 2.0, 2.05, 4.9])
    assert numbers_in(frames.images) == [0, 0, 0, 0, 20, 20, 49]
    assert len(resized) == 3


@pytest.mark.parametrize(
    "name",
    [
        "frame_counter_h265.mp4",
        "titles_vfr_vp8.webm",
        "test_pattern_10bit.mp4",
        "portrait_phone.mp4",
        "color_bars_av1.mkv",
        "asl_again.mkv",
    ],
)
def test_read_frames_of_real_clips_equals_decoding_every_frame(
    real_videos: Path, name: str
) -> None:
    path = real_videos / name
    info = probe(path)
    timestamps = sample_timestamps(info.duration_seconds, 1.0, 9, 60)
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(container.streams.video[0])]
    wanted = [bisect_right(times, times[0] + seconds + 1e-6) - 1 for seconds in timestamps]
    expected = {}
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            if index in wanted:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                resized = image.resize((96, 96), Image.Resampling.BICUBIC)
                expected[index] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    assert torch.equal(
        read_all(path, timestamps, 96).images, torch.stack([expected[index] for index in wanted])
    )


# Properties of the file


def test_probe_returns_the_properties_of_real_clips(real_videos: Path) -> None:
    clips = {
        "portrait_phone.mp4": (576, 1024, 17.467, "h264"),
        "color_bars_av1.mkv": (640, 360, 5.0, "av1"),
        "titles_vfr_vp8.webm": (480, 270, 44.566, "vp8"),
        "asl_again.mkv": (640, 480, 2.567, "h264"),
        "frame_counter_h265.mp4": (128, 128, 1.0, "hevc"),
        "nasa.mp4": (480, 270, 13.013, "h264"),  # the larger of two streams
    }
    for name, (width, height, duration, codec) in clips.items():
        info = probe(real_videos / name)
        assert (info.width, info.height, info.codec) == (width, height, codec)
        assert info.duration_seconds == pytest.approx(duration, abs=0.005)


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
def test_probe_finds_the_duration_that_a_header_lacks(tmp_path: Path, codec: str) -> None:
    for num_frames in (3, 50):
        path = tmp_path / f"live{num_frames}.mkv"
        write_video(path, numbered_images(num_frames), codec=codec, container_options={"live": "1"})
        assert probe(path).duration_seconds == pytest.approx(num_frames / 10)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv"])
def test_probe_ignores_the_duration_of_longer_audio(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"song.{suffix}", numbered_images(20), audio_seconds=9.0)
    assert probe(path).duration_seconds == pytest.approx(2.0, abs=0.01)
    assert numbers_in(read_all(path, [0.0, 1.9]).images) == [0, 19]


def test_read_frames_keeps_the_last_frame_until_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", numbered_images(4), times=[0, 20, 40, 41])
    duration = probe(path).duration_seconds
    timestamps = [0.0, 4.0, 4.1, np.nextafter(duration, 0)]
    assert numbers_in(read_all(path, timestamps).images) == [0, 2, 3, 3]


# Display


def test_read_frames_rotates_a_real_clip(real_videos: Path) -> None:
    # Stored upside down; upright, a red finger tip is at the upper right.
    path = real_videos / "keyboard_rotated_180.mov"
    with av.open(str(path)) as container:
        stored = next(container.decode(container.streams.video[0])).to_image()
    shown = read_all(path, [0.0], 128).images[0]
    rotated = np.array(stored.rotate(180).resize((128, 128), Image.Resampling.BICUBIC))
    assert torch.equal(shown, torch.from_numpy(rotated).permute(2, 0, 1))
    redness = shown[0].int() - shown[2].int()
    assert redness[:16, 112:].float().mean() > 50 > redness[112:, :16].float().mean()


@pytest.mark.parametrize(
    ("degrees", "red_corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1)), (0, (0, 0))]
)
def test_read_frames_rotates_counterclockwise(
    tmp_path: Path, degrees: int, red_corner: tuple[int, int]
) -> None:
    image = np.full((48, 64, 3), 128, np.uint8)
    image[:24, :32] = (255, 0, 0)
    path = write_video(tmp_path / "rotated.mp4", [image] * 3, rotation_degrees=degrees)
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if degrees % 180 else (64, 48))
    red = read_all(path, [0.0], 16).images[0, 0] > 190
    assert red.sum() == 64 and red[red_corner]


@pytest.mark.parametrize(
    "codec, pixel_format",
    [
        ("libx264", "yuv444p"),
        ("libx264", "yuv420p10le"),
        ("ffv1", "bgra"),
        ("ffv1", "gray"),
        ("libx264", "yuvj420p"),
    ],
)
def test_read_frames_converts_any_pixel_format(
    tmp_path: Path, codec: str, pixel_format: str
) -> None:
    path = write_video(
        tmp_path / "video.mkv", numbered_images(5), codec=codec, pixel_format=pixel_format
    )
    images = read_all(path, [0.0, 0.3]).images
    assert numbers_in(images) == [0, 3]
    assert images[1, :, 20, 10].min() > 235 and images[1, :, 20, 40].max() < 20, (
        "white and black stay so"
    )


def test_read_frames_accepts_a_frame_size_that_changes_midway(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.ts", numbered_images(10))  # B-frames: starts at 0.2 s
    images = [numbered_image(number, 128, 160) for number in range(10, 20)]
    large = write_video(tmp_path / "large.ts", images, range(12, 22))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    assert numbers_in(read_all(both, [0.0, 0.5, 1.0, 1.7]).images) == [0, 5, 10, 17]


# Resources


def test_closing_the_reader_closes_files_and_threads(tmp_path: Path) -> None:
    def num_open() -> int:
        links = (os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())
        return sum(link == str(path) for link in links)

    def decoders() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]

    path = write_video(tmp_path.resolve() / "video.mp4", numbered_images(50))
    assert not decoders()
    chunks = read_frames(path, [0.0, 1.0, 2.0], 32, "raise", chunk_frames=1)
    next(chunks)
    assert num_open() and decoders() and isinstance(chunks, Generator)
    chunks.close()
    assert not num_open() and not decoders()


def test_load_video_fills_one_tensor(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(100))
    frames, duration = load_video(path, VideoConfig(min_frames=40, image_size=64))
    assert duration == 10.0
    assert numbers_in(frames.images) == [int(2.5 * index) for index in range(40)]
    assert frames.images.untyped_storage().nbytes() == 40 * 3 * 64 * 64


MEASURE = """
import resource, sys
from lit_hour.media.video_reader import read_frames
for path, seconds in zip(sys.argv[1:], (60, 3600)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_read = sum(len(frames) for frames in read_frames(path, range(0, seconds, 30), 384, "error"))
    print(num_read, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_read_frames_uses_as_much_ram_for_a_longer_video(tmp_path: Path) -> None:
    shades = [np.full((720, 1280, 3), 10 * number, np.uint8) for number in range(20)]
    clip = write_video(tmp_path / "clip.mp4", shades, times=range(0, 40, 2), ticks_per_second=1)
    minute, hour = tmp_path / "minute.mp4", tmp_path / "hour.mp4"
    loop_video(clip, minute, 60.0)
    loop_video(clip, hour, 3600.0)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(minute), str(hour)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    (_, first_mib), (num_read, growth_mib) = (
        map(float, line.split()) for line in run.stdout.splitlines()
    )
    assert num_read == 120  # 330 MB at full size
    assert first_mib + growth_mib < 500 and growth_mib < 100
