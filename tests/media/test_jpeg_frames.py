"""Rendering processes and packing read the same frames, byte for byte."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media import jpeg_frames
from lit_hour.media.jpeg_frames import read_jpeg_frames, supports
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import SampledVideo
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.story_generator import generate_story
from tests import REPOSITORY

QUALITY = 90


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds at 5 frames per second, in which figures move and stand still."""
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    render_story(generate_story(3, 40.0), path, 64, 5)
    return path


@pytest.mark.parametrize(
    "config",
    [
        VideoConfig(min_frames=1, image_size=32),
        VideoConfig(min_frames=1, image_size=64, fps=2.5),
        VideoConfig(min_frames=77, image_size=48),
        VideoConfig(min_frames=300, image_size=32),  # more than the video has
        VideoConfig(min_frames=1, max_frames=7, image_size=32),
    ],
    ids=["1 per second", "2.5 per second", "77", "300", "7"],
)
def test_frames_times_and_duration_equal_those_of_packing(video: Path, config: VideoConfig) -> None:
    sampled = SampledVideo(video, config)
    images = [image for chunk in sampled.chunks() for image in chunk.images]
    frames = read_jpeg_frames(video, config, QUALITY)
    assert frames.images == [encode_jpeg(image, QUALITY) for image in images]
    assert frames.timestamps_seconds == sampled.timestamps
    assert frames.duration_seconds == sampled.duration_seconds == 40.0


def test_real_video_with_reordered_frames(real_videos: Path) -> None:
    config = VideoConfig(min_frames=1, max_frames=9, image_size=32)
    sampled = SampledVideo(real_videos / "asl_eat.mkv", config)
    images = [image for chunk in sampled.chunks() for image in chunk.images]
    frames = read_jpeg_frames(real_videos / "asl_eat.mkv", config, QUALITY)
    assert frames.images == [encode_jpeg(image, QUALITY) for image in images]


def test_equal_frames_are_encoded_once(
    video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    num_encoded = 0
    encode = jpeg_frames.encode_pil_jpeg

    def count_encoded(*arguments: object) -> bytes:
        nonlocal num_encoded
        num_encoded += 1
        return encode(*arguments)

    monkeypatch.setattr(jpeg_frames, "encode_pil_jpeg", count_encoded)
    frames = read_jpeg_frames(video, VideoConfig(min_frames=200, image_size=32), QUALITY)
    assert len(frames.images) == 200
    assert len(set(frames.images)) <= num_encoded < 150


def test_rotated_video_is_left_to_packing(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotated = replace(probe(video), transpose=Image.Transpose.ROTATE_90)
    monkeypatch.setattr(jpeg_frames, "probe", lambda _: rotated)
    with pytest.raises(VideoError, match=r"video\.mp4 is stored rotated or mirrored"):
        read_jpeg_frames(video, VideoConfig(), QUALITY)


def test_other_ways_of_sampling_are_left_to_packing() -> None:
    assert supports(VideoConfig())
    assert not supports(VideoConfig(sampling="published"))
    assert not supports(VideoConfig(keyframes_only=True))


def test_torch_is_not_imported() -> None:
    code = "import sys, lit_hour.media.jpeg_frames; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
