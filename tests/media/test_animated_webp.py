"""Animated WEBP files are videos, although FFmpeg does not read them."""

from pathlib import Path

import pytest
from PIL import Image

from lit_hour.config.schema import Config, VideoConfig
from lit_hour.errors import VideoError
from lit_hour.inference.video_memory import check_input_files
from lit_hour.media import animated_webp
from lit_hour.media.animated_webp import is_animated_webp
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import load_video
from tests.media.helpers import encode_image, numbered_images, numbers_in, read_all


def write_webp(path: Path, milliseconds: list[int]) -> Path:
    first, *others = map(Image.fromarray, numbered_images(len(milliseconds)))
    first.save(path, save_all=True, append_images=others, duration=milliseconds, lossless=True)
    return path


def test_every_frame_stays_on_screen_for_its_duration(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "animation.webp", [100, 100, 300, 200, 500])
    info = probe(path)
    assert (info.duration_seconds, info.width, info.height, info.fault) == (1.2, 64, 48, "")
    images = read_all(path, [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 1.1]).images
    assert numbers_in(images) == [0, 1, 2, 2, 3, 3, 4, 4]


def test_animation_without_durations_has_ten_frames_a_second(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "animation.webp", [0] * 20)
    frames, duration = load_video(path, VideoConfig(fps=10, min_frames=1, image_size=64))
    assert numbers_in(frames.images) == list(range(20)) and duration == 2.0


def test_inputs_tell_animations_from_images(tmp_path: Path) -> None:
    animation = write_webp(tmp_path / "animation.webp", [100] * 3)
    still = tmp_path / "still.webp"
    still.write_bytes(encode_image(Image.new("RGB", (64, 48)), "WEBP"))
    assert is_animated_webp(animation) and not is_animated_webp(still)
    assert len(check_input_files([animation]).open_visual(Config()).timestamps) > 1
    assert check_input_files([still]).video is None


def test_cut_and_too_large_animations_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_webp(tmp_path / "animation.webp", [100] * 9)
    monkeypatch.setattr(animated_webp, "MAX_PIXELS", 64 * 48 * 8)
    with pytest.raises(VideoError, match=r"animation\.webp has 9 frames of 64 x 48 pixels"):
        probe(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"animation\.webp .* is damaged or cut short"):
        probe(path)
