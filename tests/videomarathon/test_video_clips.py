"""Clips of a video and their frames."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError, VideoError
from lit_hour.videomarathon.video_clips import VideoFile, find_videos, read_clips, split_into_clips
from tests.media.helpers import numbered_image, numbered_images, write_video
from tests.videomarathon.factories import SyntheticVideos


def test_find_videos_at_any_depth(videos: SyntheticVideos) -> None:
    assert find_videos(videos.folder) == ["garden.mp4", "of a week/monday.mp4"]


def test_files_that_are_no_videos_by_their_suffix_are_listed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.MP4", "a.gif", "a.srt", ".hidden", "deep/c.mp4.part", "deep/d"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 files .* left out: deep/c\.mp4\.part, deep/d\."):
        assert find_videos(tmp_path) == ["a.gif", "b.MP4"]


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(TeacherError, match=r"contains no video"):
        find_videos(tmp_path)


@pytest.mark.parametrize(
    "duration, ends",
    [
        (180.0, [60.0, 120.0, 180.0]),
        (209.9, [60.0, 120.0, 209.9]),
        (210.0, [60.0, 120.0, 180.0, 210.0]),
        (60.04, [60.04]),
        (12.5, [12.5]),
        (3600.0, [60.0 * number for number in range(1, 61)]),
    ],
)
def test_split_into_clips(duration: float, ends: list[float]) -> None:
    clips = split_into_clips(duration, 60.0)
    assert [end for _, end in clips] == ends
    assert [start for start, _ in clips] == [0.0, *ends[:-1]]


def test_clips_have_a_frame_per_second_with_the_aspect_ratio_of_the_video(
    real_videos: Path,
) -> None:
    video = VideoFile.open(real_videos, "portrait_phone.mp4")
    clips = list(read_clips(video, VideoMarathonConfig(clip_seconds=2.0, image_size=96)))
    assert [clip.interval for clip in clips] == split_into_clips(video.duration_seconds, 2.0)
    timestamps = [seconds for clip in clips for seconds in clip.timestamps]
    assert timestamps == [float(second) for second in range(int(video.duration_seconds) + 1)]
    size = round(96 * video.info.width / video.info.height), 96
    assert video.info.width < video.info.height
    for clip in clips:
        assert len(clip.jpegs) == len(clip.timestamps)
        assert {Image.open(BytesIO(jpeg)).size for jpeg in clip.jpegs} == {size}


def test_frames_have_square_pixels(tmp_path: Path) -> None:
    """A DVD stores 16:9 in 160 x 128 pixels; people in it must not become 42% too tall."""
    images = [numbered_image(1, 160, 128)] * 3
    write_video(tmp_path / "dvd.mp4", images, pixel_ratio=Fraction(64, 45))
    video = VideoFile.open(tmp_path, "dvd.mp4")
    (clip,) = read_clips(video, VideoMarathonConfig(image_size=384))
    assert Image.open(BytesIO(clip.jpegs[0])).size == (384, 216)


def test_cut_video_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", numbered_images(100))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"video\.mkv is damaged or cut short: it ends after"):
        list(read_clips(VideoFile.open(tmp_path, "video.mkv"), VideoMarathonConfig()))


def test_frames_do_not_depend_on_the_clip_length(videos: SyntheticVideos) -> None:
    video = VideoFile.open(videos.folder, "garden.mp4")
    (single,) = read_clips(video, VideoMarathonConfig(clip_seconds=1000.0, image_size=32))
    halves = list(read_clips(video, VideoMarathonConfig(clip_seconds=60.0, image_size=32)))
    assert len(halves) == 2
    assert [jpeg for clip in halves for jpeg in clip.jpegs] == list(single.jpegs)
    assert len(set(single.jpegs)) > 30


def test_damaged_video_is_refused(real_videos: Path) -> None:
    with pytest.raises(VideoError, match=r"corrupted\.mp4"):
        list(read_clips(VideoFile.open(real_videos, "corrupted.mp4"), VideoMarathonConfig()))
