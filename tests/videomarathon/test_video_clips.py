from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError, VideoError
from lit_hour.videomarathon.video_clips import VideoFile, find_videos, read_clips, split_into_clips
from tests.videomarathon.factories import SyntheticVideos


def test_videos_are_found_at_any_depth_in_order(films: SyntheticVideos) -> None:
    assert find_videos(films.folder) == ["garden.mp4", "of a week/monday.mp4"]


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(TeacherError, match=r"holds no video"):
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
def test_clips_follow_one_another_and_none_is_much_shorter(
    duration: float, ends: list[float]
) -> None:
    clips = split_into_clips(duration, 60.0)
    assert [end for _, end in clips] == ends
    assert [start for start, _ in clips] == [0.0, *ends[:-1]]


def test_a_clip_has_a_frame_of_each_second_in_the_video_s_proportions(real_videos: Path) -> None:
    footage = VideoFile.open(real_videos, "portrait_phone.mp4")
    settings = VideoMarathonConfig(clip_seconds=2.0, image_size=96)
    clips = list(read_clips(footage, settings))
    assert [clip.interval for clip in clips] == split_into_clips(footage.duration_seconds, 2.0)
    assert [each for clip in clips for each in clip.seconds] == [
        float(each) for each in range(int(footage.duration_seconds) + 1)
    ]
    shape = round(96 * footage.width / footage.height), 96
    assert footage.width < footage.height
    for clip in clips:
        assert len(clip.jpegs) == len(clip.seconds)
        assert {Image.open(BytesIO(picture)).size for picture in clip.jpegs} == {shape}


def test_frames_are_those_of_their_time(films: SyntheticVideos) -> None:
    footage = VideoFile.open(films.folder, "garden.mp4")
    (whole,) = read_clips(footage, VideoMarathonConfig(clip_seconds=1000.0, image_size=32))
    halves = list(read_clips(footage, VideoMarathonConfig(clip_seconds=60.0, image_size=32)))
    assert len(halves) == 2
    assert [picture for clip in halves for picture in clip.jpegs] == list(whole.jpegs)
    assert len(set(whole.jpegs)) > 30


def test_a_damaged_video_is_refused(real_videos: Path) -> None:
    with pytest.raises(VideoError, match=r"corrupted\.mp4"):
        list(read_clips(VideoFile.open(real_videos, "corrupted.mp4"), VideoMarathonConfig()))
