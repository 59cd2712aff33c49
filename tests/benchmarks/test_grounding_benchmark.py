"""The comparison of stated intervals, the attribution's peak and a constant interval."""

import pytest

from lit_hour.inference.attribution import Attribution, Moment
from lit_hour.text.time_intervals import SCORE_NAMES
from lit_hour.types import Question
from tests.benchmarks.grounding import (
    CONSTANT,
    OF_ANSWER,
    OF_INTERVAL,
    STATED,
    best_constant,
    format_table,
    score_side_by_side,
)
from tests.inference.helpers import make_predictor, random_frames


def test_the_peak_is_the_first_interval() -> None:
    moments = (Moment(0.0, 4.0, 0.2), Moment(8.0, 9.0, 0.5), Moment(20.0, 22.0, 0.3))
    assert Attribution(moments, ()).intervals == [(8.0, 9.0), (20.0, 22.0), (0.0, 4.0)]
    assert Attribution((), ()).intervals == []


def test_the_constant_interval_has_the_largest_mean_iou() -> None:
    truths = [(100.0, [(10.0, 20.0)]), (200.0, [(20.0, 40.0)]), (100.0, [(80.0, 90.0)])]
    assert best_constant(truths) == pytest.approx((0.1, 0.2))


def test_a_question_is_scored_side_by_side_by_one_metric() -> None:
    predictor = make_predictor()
    memory = predictor.encode_visual(random_frames(40), 40.0, "video")
    question = Question("1", "", "open_ended", "What?", "x", (), ((12.0, 15.0),))
    scores = score_side_by_side(predictor, memory, question)
    assert list(scores) == [STATED, OF_ANSWER, OF_INTERVAL]
    assert scores[STATED]["mIoU"] == 0  # random weights state nothing
    for found in scores.values():
        assert list(found) == list(SCORE_NAMES) and 0 <= found["mIoU"] <= 1
    table = format_table({STATED: [{name: 0.5 for name in SCORE_NAMES}] * 4}, list("abcd"))
    assert table.splitlines()[2].startswith(f"| {STATED} | 50.0% (50.0% to 50.0%) | 50.0% |")
    assert CONSTANT not in table
