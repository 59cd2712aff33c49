import math
from fractions import Fraction

import pytest

from lit_hour.errors import VideoError
from lit_hour.media.frame_sampling import sample_timestamps


def test_one_frame_per_second_of_an_hour() -> None:
    assert sample_timestamps(3600.0, 1.0, 128, 3600) == [float(second) for second in range(3600)]


def test_a_part_of_a_second_at_the_end_gets_its_frame() -> None:
    assert sample_timestamps(3.01, 1.0, 1, 100) == [0.0, 1.0, 2.0, 3.0]
    assert sample_timestamps(3.0, 1.0, 1, 100) == [0.0, 1.0, 2.0]
    assert sample_timestamps(0.01, 1.0, 1, 100) == [0.0]


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0, 10.0, 29.97, 100.0])
@pytest.mark.parametrize(
    "duration", [0.3, 4.35, 5.0, 10.01, 59.94, math.nextafter(7.0, 8.0), math.nextafter(7.0, 0.0)]
)
def test_every_moment_before_the_end_and_no_other(duration: float, rate: float) -> None:
    timestamps = sample_timestamps(duration, rate, 1, 100_000)
    assert timestamps[0] == 0.0 and timestamps[-1] < duration
    assert len(timestamps) / rate >= duration, "the next moment would have been inside too"
    assert all(
        abs(Fraction(seconds) - index / Fraction(rate)) < 1e-9
        for index, seconds in enumerate(timestamps)
    )


def test_a_short_video_gets_the_minimum_spread_over_it() -> None:
    timestamps = sample_timestamps(5.0, 1.0, 8, 100)
    assert timestamps == [index * 5.0 / 8 for index in range(8)]


def test_a_long_video_gets_the_maximum_spread_over_it() -> None:
    timestamps = sample_timestamps(7200.0, 1.0, 128, 3600)
    assert timestamps == [2.0 * index for index in range(3600)]


@pytest.mark.parametrize("duration", [0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_none_is_refused(duration: float) -> None:
    with pytest.raises(VideoError, match="positive and finite"):
        sample_timestamps(duration, 1.0, 128, 3600)
