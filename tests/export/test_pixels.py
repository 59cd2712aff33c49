"""The exported processor reads the same frames and pixels as `lit_hour.media`."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_hour.config.schema import ImageConfig, VideoConfig
from lit_hour.export.transformers_code.pixels_hour_llava import (
    SamplingSettings,
    cut_into_tiles,
    pad_to_squares,
    read_video,
    to_image,
)
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.video_reader import load_video
from tests.media.helpers import noise_image, numbered_images, write_video

SIZES = ((64, 64), (150, 90), (90, 200), (700, 33), (5, 4))  # width and height


def encode(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    noise_image(width, height).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_are_equal(size: tuple[int, int]) -> None:
    ours = load_tiled_image(encode(*size), "picture", 64, ImageConfig(max_grid=4))
    tiles, grid = cut_into_tiles(noise_image(*size), 64, 4)
    assert grid == ours.grid and torch.equal(tiles, ours.tiles)


def test_several_images_are_equal() -> None:
    ours = load_image_set([("picture", encode(*size)) for size in SIZES], 64)
    assert torch.equal(pad_to_squares([noise_image(*size) for size in SIZES], 64), ours.images)


@pytest.mark.parametrize("sampling", ("seconds", "published"))
@pytest.mark.parametrize(
    ("min_frames", "max_frames"), ((4, 60), (30, 60), (1, 5)), ids=("fps", "short", "long")
)
def test_frames_of_a_file_are_equal(
    tmp_path: Path, sampling: str, min_frames: int, max_frames: int
) -> None:
    times = [*range(0, 60, 3), 61, 70, 99, 100, 101, 140]  # ticks: a variable frame rate
    video = write_video(
        tmp_path / "video.mp4", numbered_images(len(times)), times, rotation_degrees=90
    )
    config = VideoConfig(
        image_size=32,
        sampling=sampling,
        min_frames=min_frames,
        max_frames=max_frames,
    )
    ours, seconds = load_video(video, config)
    settings = SamplingSettings(sampling, config.fps, min_frames, max_frames)
    frames, other_seconds = read_video(video, 32, settings)
    assert other_seconds == pytest.approx(seconds)
    assert torch.equal(frames, ours.images)


def test_arrays_of_either_layout_are_frames() -> None:
    image = np.asarray(noise_image(20, 10))
    for pixels in (image, image.transpose(2, 0, 1)):
        assert np.array_equal(np.asarray(to_image(pixels)), image)
    with pytest.raises(ValueError, match="A frame is uint8"):
        to_image(image[..., :2])
