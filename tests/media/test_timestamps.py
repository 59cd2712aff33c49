"""Timestamps that start late, start again, or are not in the order of display."""

import warnings
from pathlib import Path

import pytest
import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.all_frames import images_of_all_frames
from lit_hour.media.jpeg_frames import read_jpeg_frames
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import SampledVideo, load_video
from tests.media.helpers import (
    copy_packets,
    join_files,
    numbered_images,
    numbers_in,
    read_all,
    write_video,
)

NUM_FRAMES = 60
REORDERED = {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0:keyint=20"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of H.264 with reordered frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, numbered_images(NUM_FRAMES), encoder_options=REORDERED)


@pytest.fixture(scope="module")
def next_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six seconds after `clip`."""
    path = tmp_path_factory.mktemp("clip") / "next.mp4"
    images = numbered_images(2 * NUM_FRAMES)[NUM_FRAMES:]
    return write_video(path, images, encoder_options=REORDERED)


def assert_every_frame_is_read(path: Path, num_frames: int, seconds_per_frame: float = 0.1) -> None:
    """Check duration and frames of all ways of reading, at 10 frames per second."""
    info = probe(path)
    assert info.duration_seconds == pytest.approx(num_frames * seconds_per_frame, abs=0.002)
    assert not info.fault
    timestamps = [(index + 0.5) * seconds_per_frame for index in range(num_frames)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = read_all(path, timestamps)
        every = list(images_of_all_frames(info, timestamps, 0, 64, "raise"))
    assert numbers_in(frames.images) == list(range(num_frames))
    assert torch.equal(torch.stack(every), frames.images)
    config = VideoConfig(image_size=64, min_frames=1, fps=1.0)
    sampled = SampledVideo(path, config)
    images = [image for chunk in sampled.chunks() for image in chunk.images]
    jpegs = read_jpeg_frames(path, config, 90)
    assert jpegs.images == [encode_jpeg(image, 90) for image in images]
    assert jpegs.duration_seconds == sampled.duration_seconds == load_video(path, config)[1]


# Streams that start late, and durations


@pytest.mark.parametrize("suffix", ["flv", "mkv", "ts", "mp4", "mov", "webm"])
@pytest.mark.parametrize("shift_seconds", [4.0, 3600.0])
def test_stream_that_starts_late(
    clip: Path, tmp_path: Path, suffix: str, shift_seconds: float
) -> None:
    if suffix == "webm":
        clip = write_video(
            tmp_path / "vp8.webm",
            numbered_images(NUM_FRAMES),
            codec="libvpx",
            encoder_options={"deadline": "realtime", "cpu-used": "8"},
        )
    path = copy_packets(clip, tmp_path / f"late.{suffix}", shift_seconds)
    assert_every_frame_is_read(path, NUM_FRAMES)


@pytest.mark.parametrize("shift_seconds", [3, 8])
@pytest.mark.parametrize("tag", ["00:00:06", "00:00:01", "99:00:00"])
def test_duration_tag_of_mkv_is_not_needed(
    clip: Path, tmp_path: Path, shift_seconds: int, tag: str
) -> None:
    """FFmpeg writes the end, mkvmerge the length, and others something else."""
    path = copy_packets(clip, tmp_path / "late.mkv", shift_seconds)
    content, end = path.read_bytes(), f"00:00:{shift_seconds + 6:02d}".encode()
    assert content.count(end) == 1
    path.write_bytes(content.replace(end, tag.encode()))
    assert_every_frame_is_read(path, NUM_FRAMES)


def test_fragmented_mp4_without_its_first_fragments(clip: Path, tmp_path: Path) -> None:
    """As a stream that was downloaded from its middle on."""
    flags = "frag_keyframe+empty_moov+default_base_moof"
    path = copy_packets(clip, tmp_path / "all.mp4", movflags=flags)
    content = path.read_bytes()
    assert_every_frame_is_read(path, NUM_FRAMES)
    boxes = [content.index(b"moof") - 4]
    while (start := content.find(b"moof", boxes[-1] + 8)) >= 0:
        boxes.append(start - 4)
    assert len(boxes) == 3
    index = content.index(b"mfra") - 4
    path.write_bytes(content[: boxes[0]] + content[boxes[1] : index])
    assert probe(path).duration_seconds == pytest.approx(4.0)
    images = read_all(path, [index / 10 for index in range(40)]).images
    assert numbers_in(images) == list(range(20, 60))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
def test_sound_that_outlasts_the_picture_is_no_damage(tmp_path: Path, suffix: str) -> None:
    images = numbered_images(6)
    path = write_video(
        tmp_path / f"lecture.{suffix}", images, ticks_per_second=1, audio_seconds=60.0
    )
    assert_every_frame_is_read(path, 6, seconds_per_frame=1.0)


# Timestamps that start again


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mpg", "vob"])
@pytest.mark.parametrize("num_parts", [2, 3])
def test_joined_recordings_follow_one_another(
    clip: Path, next_clip: Path, tmp_path: Path, suffix: str, num_parts: int
) -> None:
    if suffix == "mkv":
        num_parts = 2  # FFmpeg does not read a third one
    parts = []
    for number in range(num_parts):
        part = tmp_path / f"part{number}.{suffix}"
        if suffix in ("mpg", "vob"):
            images = numbered_images(100)[50 * (number % 2) :][:50]
            write_video(part, images, codec="mpeg2video", ticks_per_second=25)
        else:
            copy_packets((clip, next_clip)[number % 2], part)
        parts.append(part)
    path = join_files(tmp_path / f"joined.{suffix}", *parts)
    info = probe(path)
    length, seconds = (50, 0.04) if suffix in ("mpg", "vob") else (NUM_FRAMES, 0.1)
    assert info.duration_seconds == pytest.approx(num_parts * length * seconds)
    assert len(info.repair.restarts) == num_parts - 1
    timestamps = [(index + 0.5) * seconds for index in range(num_parts * length)]
    expected = [index % (2 * length) for index in range(num_parts * length)]
    assert numbers_in(read_all(path, timestamps).images) == expected
    every = list(images_of_all_frames(info, timestamps, 0, 64, "raise"))
    assert numbers_in(torch.stack(every)) == expected


def test_gap_between_joined_recordings_is_closed(
    clip: Path, next_clip: Path, tmp_path: Path
) -> None:
    """A camera that was started again an hour later; a gap of seconds stays, as a still picture."""
    first = copy_packets(clip, tmp_path / "first.ts")
    later = copy_packets(next_clip, tmp_path / "later.ts", 3600.0)
    assert_every_frame_is_read(join_files(tmp_path / "joined.ts", first, later), 2 * NUM_FRAMES)
    soon = copy_packets(
        next_clip, tmp_path / "soon.ts", 10.2
    )  # the muxer delayed the first by 0.2 s
    path = join_files(tmp_path / "gap.ts", first, soon)
    assert probe(path).duration_seconds == pytest.approx(16.0)
    assert numbers_in(read_all(path, [5.95, 9.95, 10.05]).images) == [59, 59, 60]


@pytest.mark.parametrize("suffix", ["mp4", "flv", "mkv"])
def test_joined_files_that_cannot_be_read_to_the_end_are_refused(
    clip: Path, next_clip: Path, tmp_path: Path, suffix: str
) -> None:
    parts = [
        copy_packets(source, tmp_path / f"{source.stem}.{suffix}") for source in (clip, next_clip)
    ]
    if suffix == "mkv":
        parts *= 2  # FFmpeg reads two
    path = join_files(tmp_path / f"joined.{suffix}", *parts)
    with pytest.raises(VideoError, match=r"another video is joined|read as one video"):
        load_video(path, VideoConfig(image_size=32))


# Frames without times, or not in the order of display


@pytest.mark.parametrize(
    "suffix, codec, options",
    [
        ("avi", "libx264", REORDERED),
        ("avi", "mpeg4", {"bf": "2"}),
        ("h264", "libx264", REORDERED),
        ("hevc", "libx265", {"x265-params": "bframes=3:log-level=none"}),
    ],
)
def test_frames_without_presentation_times_are_read_in_the_order_of_display(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str]
) -> None:
    path = write_video(
        tmp_path / f"video.{suffix}",
        numbered_images(NUM_FRAMES),
        codec=codec,
        encoder_options=options,
    )
    assert_every_frame_is_read(path, NUM_FRAMES)


def test_avi_copied_to_mkv_is_read_in_the_order_of_display(tmp_path: Path) -> None:
    """The presentation times of such files rise although the frames are reordered."""
    images = numbered_images(NUM_FRAMES)
    avi = write_video(tmp_path / "video.avi", images, encoder_options=REORDERED)
    assert_every_frame_is_read(copy_packets(avi, tmp_path / "video.mkv"), NUM_FRAMES)


def test_frames_left_out_of_an_avi_stay_on_screen(tmp_path: Path) -> None:
    """A recorder writes an empty packet where the picture does not change."""
    ticks = [0, 1, 2, 6, 7, 8, 15, 16, 17, 18]
    path = write_video(tmp_path / "video.avi", numbered_images(10), ticks, codec="mpeg4")
    assert path.read_bytes().count(b"00dc" + bytes(4)) >= 9
    assert probe(path).duration_seconds == pytest.approx(1.9)
    images = read_all(path, [index / 10 for index in range(19)]).images
    assert numbers_in(images) == [0, 1, 2, 2, 2, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 6, 7, 8, 9]
