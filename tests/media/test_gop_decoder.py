"""Segments are decoded side by side: pictures come in order, a little ahead, with errors at their place."""

import threading
import time
from pathlib import Path

import pytest
import torch
from av.video.frame import VideoFrame
from torch.utils.data import DataLoader, IterableDataset

from lit_hour.errors import VideoError
from lit_hour.media import gop_decoder as segments
from lit_hour.media.frame_iterator import SelectiveFrameIterator
from lit_hour.media.gop_decoder import num_available_cpus
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import read_frames
from tests.media.written import numbered, numbers_of, write_video

NUM_FRAMES = 600  # a key frame each 12
TIMESTAMPS = [index / 10 for index in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("segments") / "video.mp4", numbered(NUM_FRAMES))


@pytest.mark.parametrize(
    "num_decoders, batch_pictures", [(1, 64), (2, 64), (4, 64), (3, 5), (2, 1)]
)
def test_order(
    video: Path, monkeypatch: pytest.MonkeyPatch, num_decoders: int, batch_pictures: int
) -> None:
    monkeypatch.setattr(segments, "num_available_cpus", lambda: num_decoders)
    monkeypatch.setattr(segments, "MAX_BATCH_FRAMES", batch_pictures)
    plain = [
        number
        for frames in read_frames(video, TIMESTAMPS, 64, "raise")
        for number in numbers_of(frames.images)
    ]
    pictures = list(
        SelectiveFrameIterator(probe(video), TIMESTAMPS, False, lambda frame: frame.pts)
    )
    assert [times for _, times in pictures] == [1] * NUM_FRAMES
    assert [pts for pts, _ in pictures] == sorted(pts for pts, _ in pictures)
    assert plain == [number % 256 for number in range(NUM_FRAMES)]


def test_only_a_little_is_read_ahead(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "num_available_cpus", lambda: 2)
    converted: list[int | None] = []

    def note(frame: VideoFrame) -> None:
        converted.append(frame.pts)

    pictures = iter(SelectiveFrameIterator(probe(video), TIMESTAMPS, False, note))
    next(pictures)
    time.sleep(0.3)
    assert len(converted) <= 6 * 64
    assert len([*pictures]) == NUM_FRAMES - 1


def test_an_error_comes_after_the_pictures_before_it(video: Path) -> None:
    every_pts = [
        pts
        for pts, _ in SelectiveFrameIterator(
            probe(video), TIMESTAMPS, False, lambda frame: frame.pts
        )
    ]

    def fail_at_100(frame: VideoFrame) -> int | None:
        if frame.pts == every_pts[100]:
            raise VideoError("not this one")
        return frame.pts

    read = []
    with pytest.raises(VideoError, match="not this one"):
        for pts, _ in SelectiveFrameIterator(probe(video), TIMESTAMPS, False, fail_at_100):
            read.append(pts)
    assert read == every_pts[: len(read)] and 60 < len(read) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


class Shares(IterableDataset[tuple[int, torch.Tensor]]):
    """What a worker of a data loader may use, and what it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self):
        yield (
            num_available_cpus(),
            torch.cat(
                [frames.images for frames in read_frames(self.path, [0.0, 5.0, 50.0], 64, "raise")]
            ),
        )


def test_workers_of_a_data_loader_share_the_processors(video: Path) -> None:
    list(
        read_frames(video, [0.0, 5.0], 64, "raise")
    )  # leaves no thread behind that a fork would lose
    found = list(DataLoader(Shares(video), batch_size=None, num_workers=2))
    assert [share for share, _ in found] == [max(1, num_available_cpus() // 2)] * 2
    assert all(numbers_of(images) == [0, 50, 500 % 256] for _, images in found)
