"""A live video that grows, against one that is read in one piece."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_hour.errors import InputError, QuestionError, VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import MAX_THUMBNAILS, subsample_thumbnails
from lit_hour.media.frame_sampling import load_video
from lit_hour.types import Frames
from tests.inference.babbling import (
    CONFIG,
    assert_same,
    cut,
    make_predictor,
    noise,
    say,
    write_video,
)

QUESTIONS = ("What is it?", "And then?", "Which colour?")


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.mark.parametrize("lengths", ((1,) * 30, (3, 4, 23), (20, 10)), ids=str)
def test_it_is_and_says_the_same_as_one_that_was_read_in_one_piece(
    predictor: VideoPredictor, lengths: tuple[int, ...]
) -> None:
    video, memory, seen = noise(30), None, 0
    for length in lengths:
        piece, seen = cut(video, seen, seen + length), seen + length
        memory = (
            predictor.extend(memory, piece, seen)
            if memory
            else predictor.encode_visual(piece, seen, "live")
        )
        whole = predictor.encode_visual(cut(video, 0, seen), seen, "live")
        assert_same(memory, whole)
        if seen in (1, 7, 30):  # fewer than are repeated up to, and more
            assert [say(predictor, memory, question) for question in QUESTIONS] == [
                say(predictor, whole, question) for question in QUESTIONS
            ]
    assert memory is not None and memory.num_frames == 30


def test_a_file_goes_on_live(predictor: VideoPredictor, tmp_path: Path) -> None:
    file = write_video(tmp_path / "first.mp4", 10)
    first, (frames, _) = predictor.encode_video(file), load_video(file, predictor.config.video)
    assert first.files_digest and len(first.thumbnails) == MAX_THUMBNAILS
    more = Frames(noise(14).images[10:], torch.arange(10.0, 14.0))
    longer = predictor.extend(first, more, 14.0)
    whole = Frames(
        torch.cat([frames.images, more.images]), torch.cat([frames.timestamps, more.timestamps])
    )
    assert_same(longer, predictor.encode_visual(whole, 14.0, str(file)))
    assert longer.files_digest == "" and [seconds for seconds, _ in longer.thumbnails] == [
        0,
        3,
        5,
        7,
        9,
        13,
    ]
    assert (
        longer.seconds["encode"] > first.seconds["encode"]
        and longer.seconds["decode"] == first.seconds["decode"]
    )


def test_the_memory_of_before_may_be_asked_on(predictor: VideoPredictor) -> None:
    video = noise(30)
    first = predictor.encode_visual(cut(video, 0, 10), 10, "live")
    before = [say(predictor, first, question) for question in QUESTIONS]
    longer = predictor.extend(first, cut(video, 10, 30), 30)
    again = predictor.extend(first, cut(video, 10, 12), 12)  # in another way
    assert [say(predictor, first, question) for question in QUESTIONS] == before
    assert_same(longer, predictor.encode_visual(video, 30, "live"))
    assert_same(again, predictor.encode_visual(cut(video, 0, 12), 12, "live"))


def test_threads_may_extend_one_memory_each_in_its_own_way(predictor: VideoPredictor) -> None:
    first = predictor.encode_visual(noise(10), 10, "live")

    def extend(seed: int) -> None:
        for step in range(5):
            end = 12 + (seed + step) % 7
            other = noise(end, seed)
            longer = predictor.extend(first, cut(other, 10, end), end)
            both = Frames(torch.cat([noise(10).images, other.images[10:]]), other.timestamps)
            assert_same(longer, predictor.encode_visual(both, end, "live"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(extend, range(8), timeout=60))


def test_pictures_stay_few_and_spread() -> None:
    pictures: tuple[tuple[float, bytes], ...] = ()
    for second in range(1000):
        pictures = subsample_thumbnails([*pictures, (float(second), b"")])
    seconds = [picture[0] for picture in pictures]
    assert (len(seconds), seconds[0], seconds[-1]) == (MAX_THUMBNAILS, 0, 999)
    gaps = [later - earlier for earlier, later in pairwise(seconds)]
    assert max(gaps) < 600 and min(gaps[:-1]) > 20


@pytest.mark.parametrize(
    ("start", "end", "duration", "reason"),
    (
        (
            10,
            101,
            101,
            r"live would have 101 frames in memory, more than video\.max_frames=100: raise it, or begin a new",
        ),
        (
            9,
            12,
            12,
            r"frames to add to live \(from 9\.0 to 11\.0 s\) have to rise from after 9\.0 s",
        ),
        (10, 12, 11, r"to before its new end at 11 s"),
        (10, 10, 12, r"frames to add to live \(none\)"),
    ),
)
def test_what_does_not_follow_is_refused(
    predictor: VideoPredictor, start: int, end: int, duration: float, reason: str
) -> None:
    video = noise(101)
    memory = predictor.encode_visual(cut(video, 0, 10), 10, "live")
    with pytest.raises(VideoError, match=reason):
        predictor.extend(memory, cut(video, start, end), duration)


def test_pictures_do_not_grow(predictor: VideoPredictor, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "red.png")
    memory = predictor.encode_video(tmp_path / "red.png")
    with pytest.raises(
        QuestionError, match=r"red\.png is no video: only the memory of a video can grow"
    ):
        predictor.extend(memory, noise(2), 2)


def test_frames_in_the_wrong_order_are_refused(predictor: VideoPredictor) -> None:
    memory = predictor.encode_visual(noise(3), 3, "live")
    backwards = replace(noise(2), timestamps=torch.tensor([5.0, 4.0]))
    with pytest.raises(InputError, match="have to rise"):
        predictor.extend(memory, backwards, 9)
    assert_same(memory, predictor.encode_visual(noise(3), 3, "live"))


def test_the_largest_video_fits(predictor: VideoPredictor) -> None:
    memory = predictor.encode_visual(noise(99), 99, "live")
    assert (
        predictor.extend(memory, cut(noise(100), 99, 100), 100).num_frames
        == CONFIG.video.max_frames
    )
