"""Frames chosen as the published training does, against recordings and files with numbered frames.

The recordings hold both ways for frame rates of 10 to 60: from a video file, and from stored
features. A time is right if the frame on screen then is the one with the recorded number.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.published_sampling import (
    read_feature_indices,
    stored_feature_indices,
    video_frame_indices,
)
from lit_hour.media.video_reader import DamagedVideoWarning, SampledVideo, load_video
from tests.media.helpers import numbered_images, numbers_in, write_video

PUBLISHED = VideoConfig(sampling="published", min_frames=4, image_size=64)


@pytest.fixture(scope="module")
def recordings(golden: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((golden / "frame_choice.json").read_text())["cases"]
    return cases


def check(indices: list[int], recorded: dict[str, Any], case: str) -> None:
    """Compare indices with the recorded number, ends and hash."""
    found = [len(indices), indices[:6], indices[-3:]]
    assert found == [recorded["num"], recorded["first"], recorded["last"]], case
    content = np.array(indices, dtype="<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == recorded["sha256_int64_le"], case


def test_frames_of_a_video_file_equal_the_recordings(recordings: list[dict[str, Any]]) -> None:
    assert len(recordings) == 8
    for recorded in recordings:
        total, rate = recorded["total_frames"], recorded["fps"]
        indices = video_frame_indices(total, rate, fps=1.0, min_frames=128)
        expected = recorded["frames_from_video_file"]
        check(indices, expected, f"{total} frames at {rate}")
        assert f"{total / rate:.2f}" == expected["time_sentence_duration"]
        assert len(indices) == expected["time_sentence_frames"]


def test_frames_of_stored_features_equal_the_recordings(recordings: list[dict[str, Any]]) -> None:
    for recorded in recordings:
        total, rate = recorded["total_frames"], recorded["fps"]
        case, expected = f"{total} frames at {rate}", recorded["frames_from_stored_features"]
        stored = stored_feature_indices(total, rate, fps=1.0, min_frames=128)
        check(stored, expected["stored"], case)
        duration_seconds = round(total / rate, 2)
        assert duration_seconds == expected["stored_duration"]
        read = read_feature_indices(len(stored), duration_seconds, fps=1.0)
        check(read, expected["resampled"], case)
        assert f"{duration_seconds:.2f}" == expected["resampled"]["time_sentence_duration"]
        assert len(read) == expected["resampled"]["time_sentence_frames"]


@pytest.mark.parametrize(
    "suffix, codec, rate, num_frames",
    [
        ("mp4", "libx264", 10, 100),
        ("mkv", "libx264", 30, 200),
        ("ts", "libx264", 25, 120),
        ("avi", "mpeg4", 12, 90),
        ("webm", "libvpx", 24, 60),
    ],
)
def test_sampled_frames_of_a_file_have_the_published_numbers(
    tmp_path: Path, suffix: str, codec: str, rate: int, num_frames: int
) -> None:
    images = numbered_images(num_frames)
    path = write_video(tmp_path / f"video.{suffix}", images, ticks_per_second=rate, codec=codec)
    frames, duration_seconds = load_video(path, PUBLISHED)
    numbers = list(range(0, num_frames, rate))
    if len(numbers) < 4:
        numbers = [int(number) for number in np.linspace(0, num_frames - 1, 4)]
    assert numbers_in(frames.images) == numbers
    assert duration_seconds == num_frames / rate
    expected = [number / rate for number in numbers]
    assert frames.timestamps.tolist() == pytest.approx(expected, abs=1e-3)


def test_features_of_a_file_are_of_the_frames_that_published_training_reads(
    tmp_path: Path,
) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(250), ticks_per_second=30)
    stored = np.floor(np.linspace(0, 249, 32)).astype(int)
    read = np.floor(np.linspace(0, 31, 8)).astype(int)  # 8.33 s
    config = VideoConfig(sampling="published", min_frames=32, image_size=64)
    video = SampledVideo(path, config, for_features=True)
    images = next(video.chunks()).images
    assert numbers_in(images) == stored[read].tolist()
    assert video.duration_seconds == 8.33


def test_variable_rate_counts_frames_and_not_seconds(tmp_path: Path) -> None:
    """As in published training, the duration is the number of frames by the header's rate."""
    ticks = [*range(40), *range(200, 260)]
    path = write_video(tmp_path / "video.mkv", numbered_images(100), ticks)
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
    frames, duration_seconds = load_video(path, PUBLISHED)
    numbers = list(range(0, 100, round(rate)))
    assert numbers_in(frames.images) == numbers
    assert duration_seconds == 100 / rate
    assert frames.timestamps.tolist() == pytest.approx([ticks[number] / 10 for number in numbers])


def test_last_frame_behind_a_gap_can_be_read(tmp_path: Path) -> None:
    """The header of this mp4 counts decoding times, and ends before the last frame."""
    ticks = [0, 1, 2, 10, 11, 30, 31, 32, 33, 60, 61, 75]
    path = write_video(tmp_path / "video.mp4", numbered_images(len(ticks)), ticks)
    config = VideoConfig(sampling="published", min_frames=12, image_size=64)
    frames, _ = load_video(path, config)
    assert frames.timestamps[-1] == pytest.approx(7.5)
    assert numbers_in(frames.images) == list(range(12))


def test_max_frames_is_an_upper_limit(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(100))
    for max_frames, numbers in ((3, [0, 49, 99]), (1, [0])):
        config = VideoConfig(
            sampling="published", min_frames=1, max_frames=max_frames, image_size=64
        )
        assert numbers_in(load_video(path, config)[0].images) == numbers


def test_low_frame_rate_takes_every_frame() -> None:
    assert video_frame_indices(5, 0.4, fps=1.0, min_frames=1) == [0, 1, 2, 3, 4]
    assert read_feature_indices(3, 0.9, fps=1.0) == [0]


def test_damage_of_a_cut_file_is_reported(tmp_path: Path) -> None:
    """The frames are chosen from what is left, which must not go unnoticed."""
    complete = write_video(tmp_path / "complete.mkv", numbered_images(200))
    content = complete.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) // 2])
    config = VideoConfig(sampling="published", image_size=64)
    with pytest.raises(VideoError, match=r"cut\.mkv is damaged or cut short: it ends after"):
        load_video(cut, config)
    with pytest.warns(DamagedVideoWarning, match="cut short"):
        frames, duration_seconds = load_video(cut, replace(config, on_decode_error="truncate"))
    assert numbers_in(frames.images) == [round(10 * time) for time in frames.timestamps.tolist()]
    assert 20 < len(frames) < 128 and 0 < duration_seconds < 20
