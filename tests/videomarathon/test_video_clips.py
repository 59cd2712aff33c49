"""Clips of a video and their frames."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError, VideoError
from lit_hour.videomarathon.video_clips import VideoFile, find_videos, read_clips, split_into_clips
from tests.videomarathon.factories import SyntheticVideos


def test_find_videos_at_any_depth(videos: SyntheticVideos) -> None:
    assert find_videos(videos.folder) == ["garden.mp4", "of a week/monday.mp4"]


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
