"""Frames as a player shows them: rotated, mirrored, with square pixels, and of the right stream."""

import struct
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.file_structure import asks_for_crop, find_structure_fault
from lit_hour.media.jpeg_frames import read_jpeg_frames
from lit_hour.media.video_probe import UncroppedVideoWarning, probe
from lit_hour.media.video_reader import load_video
from tests.media.helpers import numbered_image, numbers_in, read_all, write_video

RED, GREEN, BLUE, GRAY = range(4)
# Stored: red at the top left, blue at the top right, green at the bottom left.
# By matrix (a, b, c, d): the colors at the top left and right, and at the bottom left and right.
CORNERS = {
    (1, 0, 0, 1): (RED, BLUE, GREEN, GRAY),
    (-1, 0, 0, 1): (BLUE, RED, GRAY, GREEN),
    (1, 0, 0, -1): (GREEN, GRAY, RED, BLUE),
    (-1, 0, 0, -1): (GRAY, GREEN, BLUE, RED),
    (0, 1, 1, 0): (RED, GREEN, BLUE, GRAY),
    (0, 1, -1, 0): (GREEN, RED, GRAY, BLUE),
    (0, -1, 1, 0): (BLUE, GRAY, RED, GREEN),
    (0, -1, -1, 0): (GRAY, BLUE, GREEN, RED),
}


def corner_image() -> np.ndarray:
    image = np.full((48, 64, 3), 128, np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    return image


def color_of(pixel: Sequence[int]) -> int:
    red, green, blue = (value > 190 for value in pixel)
    return RED if red else GREEN if green else BLUE if blue else GRAY


@pytest.mark.parametrize("matrix, corners", CORNERS.items(), ids=str)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_display_matrix_rotates_and_mirrors(
    tmp_path: Path, suffix: str, matrix: tuple[int, int, int, int], corners: tuple[int, ...]
) -> None:
    a, b, c, d = (65536 * value for value in matrix)
    path = write_video(
        tmp_path / f"video.{suffix}",
        [corner_image()] * 3,
        display_matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30),
    )
    info = probe(path)
    assert (info.width, info.height) == ((64, 48) if matrix[0] else (48, 64))
    image = read_all(path, [0.1], 32).images[0]  # (3, 32, 32)
    shown = [color_of(image[:, y, x].tolist()) for y in (4, 27) for x in (4, 27)]
    assert tuple(shown) == corners
    if matrix != (1, 0, 0, 1):
        with pytest.raises(VideoError, match="is stored rotated or mirrored"):
            read_jpeg_frames(path, VideoConfig(), 90)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov"])
def test_size_is_that_of_square_pixels(tmp_path: Path, suffix: str) -> None:
    path = write_video(
        tmp_path / f"dvd.{suffix}",
        [numbered_image(1, 160, 128)] * 3,
        pixel_ratio=Fraction(64, 45),
    )
    info = probe(path)
    assert (info.width, info.height) == (228, 128)


def test_rotated_size_is_that_of_square_pixels(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "dvd.mp4",
        [numbered_image(1, 160, 128)] * 3,
        pixel_ratio=Fraction(64, 45),
        rotation_degrees=90,
    )
    info = probe(path)
    assert (info.width, info.height) == (128, 228)


def with_clean_aperture(path: Path, width: int) -> Path:
    """Insert a `clap` box into the description of the video; the index is behind the frames."""
    content = bytearray(path.read_bytes())
    numbers = (width, 1, 48, 1, 0, 1, 0, 1)
    clap = struct.pack(">I4s8I", 40, b"clap", *numbers)
    entry = content.index(b"avc1", content.index(b"stsd")) - 4
    (size,) = struct.unpack_from(">I", content, entry)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        start = content.rindex(name, 0, entry + 8) - 4
        struct.pack_into(">I", content, start, struct.unpack_from(">I", content, start)[0] + 40)
    content[entry + size : entry + size] = clap
    path.write_bytes(content)
    return path


def with_pixel_crop(path: Path) -> Path:
    """Make the display unit of a Matroska file, 4, a crop at the top."""
    content = path.read_bytes()
    assert content.count(b"\x54\xb2\x81\x04") == 1
    path.write_bytes(content.replace(b"\x54\xb2\x81\x04", b"\x54\xbb\x81\x04"))
    return path


def test_crop_of_the_container_is_said(tmp_path: Path) -> None:
    images = [numbered_image(1)] * 3
    for path in (
        with_clean_aperture(write_video(tmp_path / "a.mp4", images), 60),
        with_pixel_crop(write_video(tmp_path / "a.mkv", images)),
    ):
        with pytest.warns(UncroppedVideoWarning, match=rf"{path.name} asks players to cut"):
            assert probe(path).fault == ""
    with warnings.catch_warnings(action="error"):
        for path in (
            with_clean_aperture(write_video(tmp_path / "full.mp4", images), 64),
            write_video(tmp_path / "full.mkv", images),
            write_video(tmp_path / "sound.mp4", images, audio_seconds=1),
        ):
            probe(path)


def test_damaged_structure_is_no_other_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    damaged = tmp_path / "damaged"
    for suffix in ("mp4", "mkv"):
        content = write_video(tmp_path / f"a.{suffix}", [numbered_image(1)] * 3).read_bytes()
        first = content.index(b"moov") - 8 if suffix == "mp4" else 0
        for _ in range(60):
            changed = bytearray(content)
            for offset in generator.integers(first, min(len(content), first + 400), 12):
                changed[offset] = generator.choice([0, 1, 255, generator.integers(256)])
            damaged.write_bytes(changed[: generator.choice([len(content), first + 200])])
            assert asks_for_crop(damaged) in (True, False)
            assert isinstance(find_structure_fault(damaged), str)


# Which stream is the film


def write_streams(
    path: Path,
    num_frames: Sequence[int],
    default: int | None = None,
    sizes: Sequence[int] | None = None,
) -> Path:
    """Write video streams; the frames of stream n show numbers from 100 n on."""
    with av.open(str(path), "w") as container:
        streams = []
        for index in range(len(num_frames)):
            stream = container.add_stream("libx264", rate=10)
            stream.width = stream.height = sizes[index] if sizes else 64
            stream.pix_fmt = "yuv420p"
            if default is not None:
                stream.disposition = Disposition.default if index == default else Disposition(0)
            streams.append(stream)
        for index, stream in enumerate(streams):
            for number in range(num_frames[index]):
                image = numbered_image(100 * index + number, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("default", [None, 0, 1])
def test_preview_is_not_the_film(tmp_path: Path, suffix: str, default: int | None) -> None:
    path = write_streams(tmp_path / f"two.{suffix}", [1, 30], default)
    frames, duration = load_video(path, VideoConfig(min_frames=1, image_size=64))
    assert numbers_in(frames.images) == [100, 110, 120] and duration == pytest.approx(3.0)
    path = write_streams(tmp_path / f"other.{suffix}", [30, 2], default)
    assert numbers_in(read_all(path, [0.0, 2.9]).images) == [0, 29]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_default_stream_is_the_film_among_equally_long_ones(tmp_path: Path, suffix: str) -> None:
    path = write_streams(tmp_path / f"angles.{suffix}", [30, 30, 29], default=2)
    assert numbers_in(read_all(path, [0.0, 2.8]).images) == [200, 228]


def test_largest_stream_is_the_film_if_none_is_the_default(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "variants.ts", [30, 30, 30], sizes=[64, 128, 64])
    assert numbers_in(read_all(path, [0.0, 2.9]).images) == [100, 129]


def test_cover_picture_is_not_the_film(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=10)
        cover.width, cover.height, cover.pix_fmt = 256, 192, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        film = container.add_stream("libx264", rate=10)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        for stream, number in ((cover, 1), (film, 2)):
            image = numbered_image(number, stream.width, stream.height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 10)
            container.mux([*stream.encode(frame), *stream.encode()])
    assert numbers_in(read_all(path, [0.0]).images) == [2]
