"""Intervals are read in the forms that models write; what states no interval is left out."""

from __future__ import annotations

import math

import pytest

from lit_hour.text.answer_matching import is_correct
from lit_hour.text.time_intervals import (
    best_iou,
    format_intervals,
    grounding_scores,
    interval_iou,
    parse_intervals,
    true_intervals,
)
from lit_hour.types import Question

FORMS = {
    "12.0 s to 15.5 s": [(12, 15.5)],
    "12.0 s to 15.5 s, 40.0 s to 41.0 s": [(12, 15.5), (40, 41)],
    "From 12 to 15.5 seconds.": [(12, 15.5)],
    "12 - 15": [(12, 15)],
    "12.5s-15s": [(12.5, 15)],
    "12–15 s": [(12, 15)],
    "from 0:12 to 0:15": [(12, 15)],
    "00:12 - 01:05.5": [(12, 65.5)],
    "1:02:03 to 1:02:30": [(3723, 3750)],
    "between 1:02 and 1:05": [(62, 65)],
    "between 12 and 15 seconds": [(12, 15)],
    "[12.0, 15.5]": [(12, 15.5)],
    "[[12, 15], [20, 30]]": [(12, 15), (20, 30)],
    "(12, 15)": [(12, 15)],
    "[[100,200],[1000,1100]]": [(100, 200), (1000, 1100)],
    "1 to 2 minutes": [(60, 120)],
    "1 min 5 s to 1 min 20 s": [(65, 80)],
    "1m5s - 1m20s": [(65, 80)],
    "The event happens in the 3.2 - 9.8 seconds.": [(3.2, 9.8)],
    "It happens from 12 s until 15 s and again from 0:40 to 0:41.": [(12, 15), (40, 41)],
    "<12.0 s> to <15.5 s>": [(12, 15.5)],
    "start: 12, end: 15": [(12, 15)],
    "Start time: 12.0 s, end time: 15 s": [(12, 15)],
    "from 00:00:12,500 --> 00:00:15,000": [(12.5, 15)],
    '{"start": 12, "end": 15}': [(12, 15)],
    "at 3 s, 5 s to 8 s": [(5, 8)],
    "about 12 to about 15 seconds": [(12, 15)],
    "1 hour 2 minutes to 1 hour 3 minutes": [(3720, 3780)],
    "12 seconds to 1:05": [(12, 65)],
    "0:55 to 1:05, 1:10 to 1:20": [(55, 65), (70, 80)],
    "10 to 20 to 30": [(10, 20)],
}
WITHOUT_INTERVAL = (
    "at 12 s",
    "",
    "never",
    "15 to 12 s",
    "12 to 12",
    "2024-11-30",
    "5 and 6",
    "1,000 to 1,100 seconds",
    "between 1,000 and 1,100 s",
    "0 to 1,100 s",
)


def test_intervals_are_read_in_many_forms() -> None:
    for text, intervals in FORMS.items():
        assert parse_intervals(text) == intervals, text


def test_other_times_reversed_and_empty_intervals_state_nothing() -> None:
    for text in WITHOUT_INTERVAL:
        assert parse_intervals(text) == [], text


def test_times_beyond_the_end_of_the_video() -> None:
    assert parse_intervals("from 95 to 120 s", 100.0) == [(95.0, 100.0)]
    assert parse_intervals("from 100 to 120 s, 5 s to 8 s", 100.0) == [(5.0, 8.0)]
    assert parse_intervals(f"from 5 to 1{'0' * 400} s", 100.0) == [(5.0, 100.0)]
    assert parse_intervals(f"from 1{'0' * 400} to 1{'0' * 401} s") == []


def test_the_strict_format_round_trips() -> None:
    intervals = [(0.0, 12.3), (3599.9, 3600.0), (7200.5, 7201.0)]
    text = format_intervals(intervals)
    assert text == "0.0 s to 12.3 s, 3599.9 s to 3600.0 s, 7200.5 s to 7201.0 s"
    assert parse_intervals(text) == true_intervals(text) == true_intervals(f"{text}.") == intervals
    for other in ("", "5 to 8 s", "A red ball", "5.0 s to 8.0 s, then nothing"):
        assert true_intervals(other) == [], other


def test_iou_counts_covered_time_once() -> None:
    for first, second, iou in (
        ([(0, 10)], [(5, 15)], 5 / 15),
        ([(0, 10)], [(0, 10)], 1.0),
        ([(0, 4), (6, 10)], [(0, 10)], 0.8),
        ([(0, 6), (4, 10)], [(0, 10)], 1.0),
        ([(0, 10), (20, 30)], [(25, 35), (5, 15)], 10 / 30),
        ([(0, 5)], [(5, 9)], 0.0),
        ([], [(5, 9)], 0.0),
        ([], [], 0.0),
        ([(0, math.inf)], [(5, 9)], 0.0),
    ):
        assert interval_iou(first, second) == interval_iou(second, first) == pytest.approx(iou)


def test_recall_is_of_the_first_interval_and_the_true_one_that_fits_it_best() -> None:
    true = [(0.0, 10.0), (20.0, 30.0)]
    assert best_iou([(21.0, 30.0), (0.0, 10.0)], true) == 0.9 and best_iou([], true) == 0.0
    scores = grounding_scores([(20.0, 26.0), (50.0, 60.0)], true)
    assert scores == {
        "mIoU": 0.6,
        "R@1 IoU 0.3": 1.0,
        "R@1 IoU 0.5": 1.0,
        "R@1 IoU 0.7": 0.0,
        "mIoU of all intervals": 6 / 30,
    }


def test_an_answer_in_the_strict_format_is_judged_by_iou() -> None:
    question = Question("g", "", "open_ended", "When?", "12.0 s to 16.0 s, 40.0 s to 44.0 s")
    for response, correct in {
        "12.0 s to 16.0 s, 40.0 s to 44.0 s": True,
        "From 0:40 to 0:43.": True,
        "It is at 12 s.": False,
        "16.0 s to 12.0 s": False,
        "15 s to 20 s": False,
        "": False,
    }.items():
        assert is_correct(question, response) == correct, response


def test_long_odd_texts_end() -> None:
    for text in ("1, " * 5_000, "1" * 20_000, "1 to " * 5_000, "0:" * 10_000):
        parse_intervals(text)
