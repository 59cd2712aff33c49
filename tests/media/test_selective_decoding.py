"""GOPs are decoded in parallel; images come in order, and errors at their position."""

import threading
import time
from pathlib import Path

import pytest
import torch
from av.video.frame import VideoFrame
from torch.utils.data import DataLoader, IterableDataset

from lit_hour.errors import VideoError
from lit_hour.media import selective_decoding
from lit_hour.media.selective_decoding import decode_selected_frames, num_available_cpus
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import read_frames
from tests.media.helpers import numbered_images, numbers_in, write_video

NUM_FRAMES = 600  # a keyframe every 12
TIMESTAMPS = [index / 10 for index in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("gops") / "video.mp4", numbered_images(NUM_FRAMES))


@pytest.mark.parametrize("num_decoders, batch_frames", [(1, 64), (2, 64), (4, 64), (3, 5), (2, 1)])
def test_decode_selected_frames_yields_images_in_order(
    video: Path, monkeypatch: pytest.MonkeyPatch, num_decoders: int, batch_frames: int
) -> None:
    monkeypatch.setattr(selective_decoding, "num_available_cpus", lambda: num_decoders)
    monkeypatch.setattr(selective_decoding, "MAX_BATCH_FRAMES", batch_frames)
    numbers = [
        number
        for frames in read_frames(video, TIMESTAMPS, 64, "raise")
        for number in numbers_in(frames.images)
    ]
    images = list(decode_selected_frames(probe(video), TIMESTAMPS, False, lambda frame: frame.pts))
    assert [num_times for _, _, num_times in images] == [1] * NUM_FRAMES
    assert [pts for pts, _, _ in images] == sorted(pts for pts, _, _ in images)
    assert numbers == [number % 256 for number in range(NUM_FRAMES)]


def test_decode_selected_frames_decodes_few_frames_ahead(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selective_decoding, "num_available_cpus", lambda: 2)
    converted: list[int | None] = []

    def record(frame: VideoFrame) -> None:
        converted.append(frame.pts)

    images = decode_selected_frames(probe(video), TIMESTAMPS, False, record)
    next(images)
    time.sleep(0.3)
    assert len(converted) <= 6 * 64
    assert len([*images]) == NUM_FRAMES - 1


def test_conversion_error_is_raised_after_earlier_images(video: Path) -> None:
    every_pts = [
        pts
        for pts, _, _ in decode_selected_frames(
            probe(video), TIMESTAMPS, False, lambda frame: frame.pts
        )
    ]

    def fail_at_100(frame: VideoFrame) -> int | None:
        if frame.pts == every_pts[100]:
            raise VideoError("this frame fails")
        return frame.pts

    read = []
    with pytest.raises(VideoError, match="this frame fails"):
        for pts, _, _ in decode_selected_frames(probe(video), TIMESTAMPS, False, fail_at_100):
            read.append(pts)
    assert read == every_pts[: len(read)] and 60 < len(read) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


class FramesWithCpuCount(IterableDataset[tuple[int, torch.Tensor]]):
    """Yields the CPUs that a DataLoader worker may use, and frames that it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self):
        yield (
            num_available_cpus(),
            torch.cat(
                [frames.images for frames in read_frames(self.path, [0.0, 5.0, 50.0], 64, "raise")]
            ),
        )


def test_dataloader_workers_share_the_cpus(video: Path) -> None:
    list(read_frames(video, [0.0, 5.0], 64, "raise"))  # leaves no thread that a fork would lose
    found = list(DataLoader(FramesWithCpuCount(video), batch_size=None, num_workers=2))
    assert [num_cpus for num_cpus, _ in found] == [max(1, num_available_cpus() // 2)] * 2
    assert all(numbers_in(images) == [0, 50, 500 % 256] for _, images in found)
