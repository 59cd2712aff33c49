"""`VideoPredictor.extend` against encoding the video in one piece."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_hour.errors import QuestionError, VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import MAX_THUMBNAILS, VideoMemory, subsample_thumbnails
from lit_hour.media.video_reader import load_video
from lit_hour.types import Frames, Thumbnail
from tests.inference.helpers import (
    CONFIG,
    assert_equal_memories,
    generate_text,
    make_predictor,
    random_frames,
    slice_frames,
    write_video,
)

QUESTIONS = ("What is it?", "And then?", "Which colour?")


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


def generate_all(predictor: VideoPredictor, memory: VideoMemory) -> list[str]:
    return [generate_text(predictor, memory, question) for question in QUESTIONS]


@pytest.mark.parametrize("lengths", ((1,) * 30, (3, 4, 23), (20, 10)), ids=str)
def test_extend_equals_encoding_in_one_piece(
    predictor: VideoPredictor, lengths: tuple[int, ...]
) -> None:
    video, memory, end = random_frames(30), None, 0
    for length in lengths:
        piece, end = slice_frames(video, end, end + length), end + length
        if memory is None:
            memory = predictor.encode_visual(piece, end, "live")
        else:
            memory = predictor.extend(memory, piece, end)
        if end > 9 and end not in (16, 17, 20, 30):  # blocks have eight frames
            continue
        expected = predictor.encode_visual(slice_frames(video, 0, end), end, "live")
        assert_equal_memories(memory, expected)
        if end in (1, 7, 30):  # below and above memaug.min_frames
            assert generate_all(predictor, memory) == generate_all(predictor, expected)
    assert memory is not None and memory.num_frames == 30


def test_extend_continues_the_memory_of_a_file(predictor: VideoPredictor, tmp_path: Path) -> None:
    file = write_video(tmp_path / "first.mp4", 10)
    first, (frames, _) = predictor.encode_video(file), load_video(file, predictor.config.video)
    assert first.files_digest and len(first.thumbnails) == MAX_THUMBNAILS
    more = Frames(random_frames(14).images[10:], torch.arange(10.0, 14.0))
    longer = predictor.extend(first, more, 14.0)
    timestamps = torch.cat([frames.timestamps, more.timestamps])
    video = Frames(torch.cat([frames.images, more.images]), timestamps)
    assert_equal_memories(longer, predictor.encode_visual(video, 14.0, str(file)))
    assert longer.files_digest == ""
    assert [seconds for seconds, _ in longer.thumbnails] == [0, 3, 5, 7, 9, 13]
    assert longer.seconds["encode"] > first.seconds["encode"]
    assert longer.seconds["decode"] == first.seconds["decode"]


def test_extend_does_not_change_the_original_memory(predictor: VideoPredictor) -> None:
    video = random_frames(30)
    first = predictor.encode_visual(slice_frames(video, 0, 10), 10, "live")
    before = generate_all(predictor, first)
    longer = predictor.extend(first, slice_frames(video, 10, 30), 30)
    shorter = predictor.extend(first, slice_frames(video, 10, 12), 12)  # a second branch
    assert generate_all(predictor, first) == before
    assert_equal_memories(longer, predictor.encode_visual(video, 30, "live"))
    assert_equal_memories(shorter, predictor.encode_visual(slice_frames(video, 0, 12), 12, "live"))


def test_threads_can_extend_one_memory_in_different_ways(predictor: VideoPredictor) -> None:
    first = predictor.encode_visual(random_frames(10), 10, "live")

    def extend(seed: int) -> None:
        for step in range(5):
            end = 12 + (seed + step) % 7
            branch = random_frames(end, seed)
            longer = predictor.extend(first, slice_frames(branch, 10, end), end)
            images = torch.cat([random_frames(10).images, branch.images[10:]])
            video = Frames(images, branch.timestamps)
            assert_equal_memories(longer, predictor.encode_visual(video, end, "live"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(extend, range(8), timeout=60))


def test_subsample_thumbnails_keeps_a_few_spread_over_the_video() -> None:
    thumbnails: tuple[Thumbnail, ...] = ()
    for second in range(1000):
        thumbnails = subsample_thumbnails([*thumbnails, (float(second), b"")])
    seconds = [second for second, _ in thumbnails]
    assert (len(seconds), seconds[0], seconds[-1]) == (MAX_THUMBNAILS, 0, 999)
    gaps = [later - earlier for earlier, later in pairwise(seconds)]
    assert max(gaps) < 600 and min(gaps[:-1]) > 20


def test_extend_rejects_frames_that_do_not_continue_the_video(predictor: VideoPredictor) -> None:
    video = random_frames(101)
    memory = predictor.encode_visual(slice_frames(video, 0, 10), 10, "live")
    for start, end, duration_seconds, message in (
        (10, 101, 101, r"live would have 101 frames, more than video\.max_frames=100"),
        (9, 12, 12, r"live \(from 9\.0 to 11\.0 s\) must have increasing times after 9\.0 s"),
        (10, 12, 11, r"before 11 s, its new end"),
        (10, 10, 12, r"frames to add to live \(none\)"),
    ):
        with pytest.raises(VideoError, match=message):
            predictor.extend(memory, slice_frames(video, start, end), duration_seconds)
    backwards = replace(random_frames(2), timestamps=torch.tensor([15.0, 14.0]))
    with pytest.raises(VideoError, match="must have increasing times"):
        predictor.extend(memory, backwards, 19)
    assert_equal_memories(memory, predictor.encode_visual(slice_frames(video, 0, 10), 10, "live"))


def test_extend_rejects_the_memory_of_an_image(predictor: VideoPredictor, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "red.png")
    memory = predictor.encode_video(tmp_path / "red.png")
    with pytest.raises(
        QuestionError, match=r"red\.png is not a video\. Only the memory of a video"
    ):
        predictor.extend(memory, random_frames(2), 2)


def test_extend_may_reach_max_frames(predictor: VideoPredictor) -> None:
    memory = predictor.encode_visual(random_frames(99), 99, "live")
    longer = predictor.extend(memory, slice_frames(random_frames(100), 99, 100), 100)
    assert longer.num_frames == CONFIG.video.max_frames
