"""Times at which frames are sampled."""

import math
from fractions import Fraction
from itertools import product

import pytest

from lit_hour.errors import VideoError
from lit_hour.media.video_reader import sample_timestamps


def test_sample_timestamps_takes_one_frame_per_second_of_an_hour() -> None:
    assert sample_timestamps(3600.0, 1.0, 128, 3600) == [float(second) for second in range(3600)]


def test_sample_timestamps_takes_a_frame_of_the_partial_second_at_the_end() -> None:
    assert sample_timestamps(3.01, 1.0, 1, 100) == [0.0, 1.0, 2.0, 3.0]
    assert sample_timestamps(3.0, 1.0, 1, 100) == [0.0, 1.0, 2.0]
    assert sample_timestamps(0.01, 1.0, 1, 100) == [0.0]


def test_sample_timestamps_covers_the_video_at_any_rate() -> None:
    durations = (0.3, 4.35, 5.0, 10.01, 59.94, math.nextafter(7.0, 8.0), math.nextafter(7.0, 0.0))
    for duration, fps in product(durations, (0.5, 1.0, 3.0, 10.0, 29.97, 100.0)):
        timestamps = sample_timestamps(duration, fps, 1, 100_000)
        case = f"{duration} s at {fps} fps"
        assert timestamps[0] == 0.0 and timestamps[-1] < duration, case
        assert len(timestamps) / fps >= duration, f"{case}: one time is missing at the end"
        assert all(
            abs(Fraction(seconds) - index / Fraction(fps)) < 1e-9
            for index, seconds in enumerate(timestamps)
        ), case


def test_sample_timestamps_gives_a_short_video_min_frames() -> None:
    timestamps = sample_timestamps(5.0, 1.0, 8, 100)
    assert timestamps == [index * 5.0 / 8 for index in range(8)]


def test_sample_timestamps_gives_a_long_video_max_frames() -> None:
    timestamps = sample_timestamps(7200.0, 1.0, 128, 3600)
    assert timestamps == [2.0 * index for index in range(3600)]


@pytest.mark.parametrize("duration", [0.0, -1.0, math.nan, math.inf])
def test_sample_timestamps_refuses_an_invalid_duration(duration: float) -> None:
    with pytest.raises(VideoError, match="positive and finite"):
        sample_timestamps(duration, 1.0, 128, 3600)
