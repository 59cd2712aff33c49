"""The memory of a live video: equal to one piece up to its limit, and thinned as stated beyond."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lit_hour.errors import ConfigError
from lit_hour.inference.live_memory import LiveMemory, thinned_indices
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, VideoMemoryBuilder
from tests.inference.helpers import (
    assert_equal_memories,
    generate_text,
    make_predictor,
    random_frames,
    slice_frames,
)

LIMIT = 16


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


def read_live(predictor: VideoPredictor, num_frames: int, num_at_once: int) -> LiveMemory:
    live, video = LiveMemory(predictor, "live", LIMIT), random_frames(num_frames)
    for start in range(0, num_frames, num_at_once):
        end = min(start + num_at_once, num_frames)
        live.append(slice_frames(video, start, end), end)
    return live


def times(memory: VideoMemory | None) -> list[int]:
    assert memory is not None
    return [int(seconds) for seconds in memory.timestamps_seconds]


def kept_after(num_frames: int) -> list[int]:
    """Apply the stated policy one second after the other."""
    kept: list[int] = []
    for second in range(num_frames):
        if len(kept) == LIMIT:
            older, newest = kept[: LIMIT // 2], kept[LIMIT // 2 :]
            step = 1
            while len(older) > LIMIT // 4:
                step *= 2
                older = [number for number in older if number % step == 0]
            kept = older + newest
        kept.append(second)
    return kept


@pytest.mark.parametrize("num_at_once", (1, 5, 100))
def test_equals_one_piece_until_the_limit(predictor: VideoPredictor, num_at_once: int) -> None:
    for num_frames in (1, 7, LIMIT):
        live = read_live(predictor, num_frames, num_at_once)
        expected = predictor.encode_visual(random_frames(num_frames), num_frames, "live")
        assert_equal_memories(live.memory, expected)
        assert generate_text(predictor, live.memory, "What?") == generate_text(
            predictor, expected, "What?"
        )


@pytest.mark.parametrize("num_at_once", (pytest.param(1, marks=pytest.mark.slow), 3, 64))
def test_is_thinned_as_stated_beyond_the_limit(predictor: VideoPredictor, num_at_once: int) -> None:
    for num_frames in (LIMIT + 1, 21, 40, 64):
        live = read_live(predictor, num_frames, num_at_once)
        assert times(live.memory) == kept_after(num_frames)
        assert live.num_read == num_frames
    assert times(live.memory)[:4] == [0, 16, 32, 48]


def test_frames_that_stay_keep_their_tokens_bit_for_bit(predictor: VideoPredictor) -> None:
    live, video = read_live(predictor, 50, 7), random_frames(50)
    complete = predictor.encode_visual(video, 50, "live")
    tokens, timestamps = complete.stream.encoded(50)  # (frames, tokens, dim), (frames,)
    kept = kept_after(50)
    assert times(live.memory) == kept
    kept_tokens, kept_times = live.memory.stream.encoded(len(kept))
    assert torch.equal(kept_tokens, tokens[kept]) and torch.equal(kept_times, timestamps[kept])
    builder = VideoMemoryBuilder(predictor.model, predictor.processor, len(kept))
    builder.append_encoded(tokens[kept], timestamps[kept])
    assert_equal_memories(live.memory, builder.finalize(50, "live"))


def test_a_question_keeps_its_memory_while_reading_goes_on(predictor: VideoPredictor) -> None:
    live, video = read_live(predictor, 12, 12), random_frames(60)
    earlier = live.memory
    before = generate_text(predictor, earlier, "What?")
    live.append(slice_frames(video, 12, 60), 60)
    assert generate_text(predictor, earlier, "What?") == before
    assert_equal_memories(earlier, predictor.encode_visual(slice_frames(video, 0, 12), 12, "live"))


def test_the_duration_may_be_longer_than_the_last_frame(predictor: VideoPredictor) -> None:
    live = read_live(predictor, 10, 4)
    live.set_duration(10.4)
    assert_equal_memories(live.memory, predictor.encode_visual(random_frames(10), 10.4, "live"))


@pytest.mark.parametrize("fps", (0.1, 1.0, 3.0, 29.97))
def test_thinning_keeps_the_newest_half_and_spreads_the_rest(fps: float) -> None:
    for num_frames in (8, 9, 100, 101):
        seconds = (torch.arange(num_frames) / fps).tolist()
        kept = thinned_indices(seconds, num_frames, fps)
        newest = num_frames // 2
        assert kept[-newest:] == list(range(num_frames - newest, num_frames))
        older = kept[:-newest]
        assert older[0] == 0 and len(older) <= num_frames // 4
        steps = {later - earlier for earlier, later in pairwise(older)}
        (step,) = steps or {2}
        assert step & (step - 1) == 0


def test_thinning_takes_any_times() -> None:
    for seconds in ([0.0] * 8, [1e6 + 1e-3 * number for number in range(8)]):
        assert len(thinned_indices(seconds, 8, 1.0)) in (5, 6)


def test_a_limit_out_of_range_is_refused(predictor: VideoPredictor) -> None:
    for limit in (-1, 0, 3, 101):
        with pytest.raises(ConfigError, match=rf"limit of {limit} frames .*4 to video\.max_frames"):
            LiveMemory(predictor, "live", limit)


@pytest.mark.slow
def test_a_long_video_takes_no_more_memory_than_the_limit() -> None:
    predictor = make_predictor()
    live, frames, sizes = LiveMemory(predictor, "live", 64), random_frames(8), []
    for start in range(0, 2400, 8):
        timestamps = frames.timestamps + start
        live.append(replace(frames, timestamps=timestamps), start + 8)
        sizes.append(live.memory.num_bytes)
    assert live.num_read == 2400 and live.memory.num_frames <= 64
    assert max(sizes[-100:]) <= max(sizes[:50])
    assert times(live.memory)[0] == 0 and times(live.memory)[-1] == 2399
