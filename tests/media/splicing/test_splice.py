"""Spliced videos: copied frames are equal to the byte, and every frame is at its time."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lit_hour.errors import VideoError
from lit_hour.media.pil_images import resize_to_square
from lit_hour.media.splicing import footage as footage_module
from lit_hour.media.splicing.footage import (
    TICKS_PER_SECOND,
    Footage,
    UncopyableError,
    index_footage,
)
from lit_hour.media.splicing.splice import Excerpt, Overlay, splice_video
from lit_hour.media.video_probe import probe
from tests.media.helpers import numbered_images, read_all, write_moving, write_video
from tests.media.splicing.helpers import decode_all, difference, expected_frames

FRAME = TICKS_PER_SECOND // 25
MAX_ENCODING_DIFFERENCE = 3.0  # gray levels
RED = Image.new("RGB", (64, 48), (255, 0, 0))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Footage]:
    """Videos of three encoders' settings, with closed GOPs of 12 and 10 frames, and one GOP."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [
        write_moving(folder / "pyramid.mp4", 60, g="12", **{"x264-params": "scenecut=0"}),
        write_moving(folder / "baseline.mkv", 40, g="10", bf="0", profile="baseline"),
        write_moving(folder / "single.mp4", 30, g="300", **{"x264-params": "ref=4:bframes=5"}),
    ]
    return [index_footage(path) for path in paths]


def check_times(path: Path, excerpts: list[Excerpt]) -> None:
    expected = expected_frames(excerpts)
    frames = decode_all(path)
    assert len(frames) == len(expected)
    assert all(abs(one[0] - other[0]) <= 1 for one, other in zip(frames, expected, strict=True))
    seconds = sum(excerpt.ticks for excerpt in excerpts) / TICKS_PER_SECOND
    assert probe(path).duration_seconds == pytest.approx(seconds, abs=1e-3)


def test_index_has_every_frame_and_the_closed_gops(clips: list[Footage]) -> None:
    assert [clip.num_frames for clip in clips] == [60, 40, 30]
    assert clips[0].gop_frames == (0, 12, 24, 36, 48)
    assert clips[1].gop_frames == (0, 10, 20, 30)
    assert clips[2].gop_frames == (0,)
    assert clips[0].delay > 0 == clips[1].delay
    for clip in clips:
        assert [ticks for ticks, _ in decode_all(clip.path)] == list(clip.starts)


def test_gops_of_several_encoders_are_copied_byte_for_byte(
    clips: list[Footage], tmp_path: Path
) -> None:
    pyramid, baseline, single = clips
    excerpts = [
        Excerpt(baseline, 10, 30),
        Excerpt(pyramid, 12, 48),
        Excerpt(single, 0, 30),
        Excerpt(baseline, 0, 40),
        Excerpt(pyramid, 48, 60),
    ]
    path = tmp_path / "spliced.mp4"
    splice_video(path, excerpts)
    check_times(path, excerpts)
    for (ticks, image), (_, expected) in zip(
        decode_all(path), expected_frames(excerpts), strict=True
    ):
        assert np.array_equal(image, expected), ticks
    assert not list(tmp_path.glob("*.unfinished"))


def test_spliced_video_is_footage_itself(clips: list[Footage], tmp_path: Path) -> None:
    pyramid, baseline, _ = clips
    splice_video(tmp_path / "once.mp4", [Excerpt(pyramid, 0, 24), Excerpt(baseline, 0, 20)])
    once = index_footage(tmp_path / "once.mp4")
    assert once.gop_frames == (0, 12, 24, 34)
    excerpts = [Excerpt(once, 12, 44), Excerpt(pyramid, 24, 60)]
    splice_video(tmp_path / "twice.mp4", excerpts)
    for (_, image), (_, expected) in zip(
        decode_all(tmp_path / "twice.mp4"), expected_frames(excerpts), strict=True
    ):
        assert np.array_equal(image, expected)


def test_only_gops_that_are_cut_or_drawn_on_are_encoded_again(
    clips: list[Footage], tmp_path: Path
) -> None:
    pyramid, baseline, _ = clips
    excerpts = [Excerpt(pyramid, 5, 60), Excerpt(baseline, 0, 37)]
    overlay = Overlay(30 * FRAME, 41 * FRAME, lambda image, seconds: RED)
    path = tmp_path / "spliced.mp4"
    splice_video(path, excerpts, [overlay])
    check_times(path, excerpts)
    frames, expected = decode_all(path), expected_frames(excerpts)
    # Frames 5 to 11 of the first GOP; frames 24 to 47, which hold the overlay; the last GOP.
    encoded = {*range(7), *range(19, 43), *range(85, 92)}
    for index, ((ticks, image), (_, original)) in enumerate(zip(frames, expected, strict=True)):
        if 30 * FRAME <= ticks < 41 * FRAME:
            assert image[:48].mean() < 100 and np.ptp(image[:48]) < 12, index  # red's luma
        elif index in encoded:
            assert difference(image, original) < MAX_ENCODING_DIFFERENCE, index
        else:
            assert np.array_equal(image, original), index
    assert any(not np.array_equal(frames[index][1], expected[index][1]) for index in encoded)


def test_overlay_gets_the_frame_and_the_seconds_since_its_start(
    clips: list[Footage], tmp_path: Path
) -> None:
    seen: list[tuple[float, Image.Image]] = []

    def draw(image: Image.Image, seconds: float) -> Image.Image:
        seen.append((seconds, image.copy()))
        return image

    splice_video(
        tmp_path / "spliced.mp4", [Excerpt(clips[0], 0, 60)], [Overlay(FRAME, 3 * FRAME, draw)]
    )
    assert [seconds for seconds, _ in seen] == [0.0, pytest.approx(0.04)]
    assert seen[0][1].size == (64, 48)


def test_project_reader_returns_the_frames_of_a_spliced_video(
    clips: list[Footage], tmp_path: Path
) -> None:
    """It decodes GOPs in parallel, each with the parameter sets in its own packets."""
    excerpts = [Excerpt(clips[1], 0, 20), Excerpt(clips[0], 7, 60), Excerpt(clips[2], 0, 30)]
    path = tmp_path / "spliced.mp4"
    splice_video(path, excerpts)
    times = [ticks / TICKS_PER_SECOND for ticks, _ in decode_all(path)][::3]
    read = read_all(path, times).images
    import av

    with av.open(str(path)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)][::3]
    for image, frame in zip(read, images, strict=True):
        expected = np.asarray(resize_to_square(frame, 64))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_variable_frame_rate_is_kept(clips: list[Footage], tmp_path: Path) -> None:
    times = [0, 1, 2, 9, 10, 30, 31, 32, 33, 60, 61, 62]
    source = index_footage(write_moving(tmp_path / "variable.mp4", 12, times, g="6"))
    assert source.starts == tuple(time * FRAME for time in times)
    excerpts = [Excerpt(source, 2, 9), Excerpt(clips[1], 0, 10), Excerpt(source, 6, 12)]
    splice_video(tmp_path / "spliced.mp4", excerpts)
    check_times(tmp_path / "spliced.mp4", excerpts)


def test_open_gops_are_not_cut(tmp_path: Path) -> None:
    options = {"x264-params": "open-gop=1:scenecut=0:keyint=12:min-keyint=12:bframes=3"}
    source = index_footage(write_moving(tmp_path / "open.mp4", 60, **options))
    assert source.gop_frames == (0,)
    excerpts = [Excerpt(source, 0, 60)]
    splice_video(tmp_path / "spliced.mp4", excerpts)
    for (_, image), (_, expected) in zip(
        decode_all(tmp_path / "spliced.mp4"), expected_frames(excerpts), strict=True
    ):
        assert np.array_equal(image, expected)


@pytest.mark.parametrize("suffix", ["ts", "flv", "mov"])
def test_containers_with_start_codes_or_other_time_bases(
    suffix: str, clips: list[Footage], tmp_path: Path
) -> None:
    source = index_footage(write_moving(tmp_path / f"source.{suffix}", 40, g="10"))
    excerpts = [Excerpt(clips[1], 0, 10), Excerpt(source, 10, 40)]
    splice_video(tmp_path / "spliced.mp4", excerpts)
    check_times(tmp_path / "spliced.mp4", excerpts)
    for (_, image), (_, expected) in zip(
        decode_all(tmp_path / "spliced.mp4"), expected_frames(excerpts), strict=True
    ):
        assert np.array_equal(image, expected)


MIRROR = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def test_videos_that_cannot_be_copied_are_named_with_the_reason(tmp_path: Path) -> None:
    images = numbered_images(3)
    for name, options, reason in (
        ("a.mp4", {"codec": "mpeg4"}, "codec is mpeg4"),
        ("b.mp4", {"pixel_format": "yuv444p"}, "pixel format is yuv444p"),
        ("c.mp4", {"rotation_degrees": 90}, "rotated"),
        ("d.mp4", {"display_matrix": MIRROR}, "mirrored"),
        ("e.mp4", {"pixel_ratio": Fraction(64, 45)}, "pixels are not square but 64/45"),
    ):
        path = write_video(tmp_path / name, images, **options)
        with pytest.raises(UncopyableError, match=reason):
            index_footage(path)
    square, wide = write_moving(tmp_path / "square.mp4", 20, g="10"), tmp_path / "wide.mp4"
    with av.open(str(square)) as source, av.open(str(wide), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.sample_aspect_ratio = Fraction(2)  # in the container alone
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(UncopyableError, match="pixels are not square but 2"):
        index_footage(wide)
    joined = tmp_path / "joined.mkv"
    part = write_moving(tmp_path / "part.mkv", 20, g="10").read_bytes()
    joined.write_bytes(part + write_moving(tmp_path / "part.mkv", 30, g="10").read_bytes())
    with pytest.raises(UncopyableError, match="timestamps start again"):
        index_footage(joined)


def test_damaged_or_changed_footage_is_refused(clips: list[Footage], tmp_path: Path) -> None:
    path = write_moving(tmp_path / "source.mp4", 60, g="300")
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[middle : middle + 400] = os.urandom(400)
    source = index_footage(path)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="decoded"):
        splice_video(tmp_path / "spliced.mp4", [Excerpt(source, 1, 60)])
    data[middle : middle + 400] = b"\xff" * 400  # lengths of NAL units that no packet has
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"cannot be copied \(Invalid data"):
        splice_video(tmp_path / "spliced.mp4", [Excerpt(source, 0, 60)])
    write_moving(path, 20, g="300")
    with pytest.raises(VideoError, match="has changed"):
        splice_video(tmp_path / "spliced.mp4", [Excerpt(source, 1, 60)])
    other = index_footage(write_video(tmp_path / "small.mp4", numbered_images(3)))
    wide = footage_module.FrameSize(128, 48)
    with pytest.raises(VideoError, match="cannot be joined"):
        splice_video(
            tmp_path / "spliced.mp4",
            [Excerpt(other, 0, 3), Excerpt(footage_replace(other, wide), 0, 3)],
        )
    assert not list(tmp_path.glob("spliced*"))


def footage_replace(footage: Footage, size: footage_module.FrameSize) -> Footage:
    from dataclasses import replace

    return replace(footage, size=size)
