"""Encoding again what cannot be copied: upright, between bars, at the right times."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_hour.errors import VideoError
from lit_hour.media.splicing.conform import check_decodes, conform_image, conform_video
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, FrameSize, index_footage
from tests.media.helpers import numbered_images, numbers_in, read_all, write_moving, write_video

SIZE = FrameSize(64, 48)


def test_frames_of_a_variable_rate_are_shown_at_their_times(tmp_path: Path) -> None:
    times = [0, 2, 3, 4, 20, 21, 35]  # tenths of a second
    source = write_video(tmp_path / "source.mkv", numbered_images(7), times, codec="mpeg4")
    footage = conform_video(source, tmp_path / "target.mp4", SIZE)
    assert footage.size == SIZE and footage.longest_frame <= TICKS_PER_SECOND / 10
    seconds = [time / 10 + 0.05 for time in times]
    assert numbers_in(read_all(footage.path, seconds).images) == list(range(7))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_become_upright(degrees: int, tmp_path: Path) -> None:
    images = [np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[:, None], 64, 1)] * 3
    images = [np.stack([image] * 3, axis=-1) for image in images]  # brighter below
    source = write_video(tmp_path / "source.mp4", images, rotation_degrees=degrees)
    expected = read_all(source, [0.0]).images  # upright, and stretched to a square
    size = FrameSize(48, 64) if degrees != 180 else SIZE
    footage = conform_video(source, tmp_path / "target.mp4", size)
    found = read_all(footage.path, [0.0]).images
    assert (found.float() - expected.float()).abs().mean() < 4


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_videos_become_as_they_are_shown(
    matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    image = np.full((48, 64, 3), 128, np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    a, b, c, d = (65536 * value for value in matrix)
    display_matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    source = write_video(tmp_path / "source.mp4", [image] * 3, display_matrix=display_matrix)
    expected = read_all(source, [0.0]).images  # as shown, and stretched to a square
    size = SIZE if matrix[0] else FrameSize(48, 64)
    footage = conform_video(source, tmp_path / "target.mp4", size)
    found = read_all(footage.path, [0.0]).images
    assert (found.float() - expected.float()).abs().mean() < 6
    assert (found.float() - expected.flip(-1).float()).abs().mean() > 40


def test_other_shapes_get_black_bars(tmp_path: Path) -> None:
    white = [np.full((48, 64, 3), 255, np.uint8)] * 3
    source = write_video(tmp_path / "source.mp4", white, codec="mpeg4")
    target = conform_video(source, tmp_path / "target.mp4", FrameSize(128, 48))
    image = read_all(target.path, [0.0], image_size=128).images[0].float().mean(dim=(0, 1))
    assert image[:30].max() < 40 and image[36:92].min() > 220 and image[98:].max() < 40
    photo = conform_image(Image.new("RGB", (30, 90), (255, 255, 255)), tmp_path / "i.mp4", SIZE, 2)
    assert photo.end == 2 * TICKS_PER_SECOND
    columns = read_all(photo.path, [0.0, 1.9]).images.float().mean(dim=(1, 2))
    assert torch.all(columns[:, :22] < 40) and torch.all(columns[:, 28:36] > 220)


def test_only_the_first_seconds_are_encoded(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", numbered_images(30), codec="mpeg4")
    footage = conform_video(source, tmp_path / "target.mp4", SIZE, max_seconds=1.5)
    assert footage.end == 1.5 * TICKS_PER_SECOND


def test_damaged_videos_are_refused(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "source.mkv", 200, g="300")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="Give an intact file"):
        conform_video(path, tmp_path / "target.mp4", SIZE)
    assert not list(tmp_path.glob("target*"))
    footage = index_footage(write_moving(tmp_path / "fine.mp4", 40, g="10"))
    check_decodes(footage)
    write_moving(footage.path, 30, g="10")
    with pytest.raises(VideoError, match="Only 30 of 40 frames"):
        check_decodes(footage)
