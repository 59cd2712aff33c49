"""Cells, Wilson's interval, and the arguments that name lengths and depths."""

import pytest

from lit_hour.errors import InputError
from lit_hour.evaluation.needle.cells import (
    Cell,
    count_cells,
    parse_depths,
    parse_lengths,
    wilson_interval,
)
from lit_hour.evaluation.needle.heat_map import plot_heat_map


@pytest.mark.parametrize(
    ("num_correct", "num_answers", "low", "high"),
    [  # Newcombe (1998), table I, method 3: the score method without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(
    num_correct: int, num_answers: int, low: float, high: float
) -> None:
    found = wilson_interval(num_correct, num_answers)
    assert found == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
    mirrored = wilson_interval(num_answers - num_correct, num_answers)
    assert mirrored == (pytest.approx(1 - found[1]), pytest.approx(1 - found[0]))


def test_answers_are_counted_by_length_and_depth() -> None:
    answers = [
        {"length_seconds": length, "depth": depth, "is_correct": verdict}
        for length, depth, verdict in (
            (60.0, 0.5, True), (60.0, 0.5, False), (60.0, 0.0, True), (30.0, 0.5, True),
        )
    ]  # fmt: skip
    assert count_cells(answers) == [
        Cell(30.0, 0.5, 1, 1),
        Cell(60.0, 0.0, 1, 1),
        Cell(60.0, 0.5, 2, 1),
    ]


def test_heat_map_has_shares_and_intervals_where_there_are_answers() -> None:
    cells = [Cell(300.0, 0.0, 20, 15), Cell(3600.0, 0.5, 4, 0)]
    axes = plot_heat_map(cells, "film $5 $6").axes[0]
    texts = [(text.get_position(), text.get_text()) for text in axes.texts]
    assert texts == [((0, 0), "75% of 20\n53% to 89%"), ((1, 1), "0% of 4\n0% to 49%")]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["05:00", "1:00:00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "50"]


def test_lengths_and_depths_are_parsed_or_refused() -> None:
    assert parse_lengths("1h, 90s,5m,1h30m,90s") == (90.0, 300.0, 3600.0, 5400.0)
    assert parse_depths("100, 0,12.5%,0") == (0.0, 0.125, 1.0)
    for text in ("", "5", "0s", "m", "5m,,6m", "5m-6m", "-5m", "nan"):
        with pytest.raises(InputError, match="Invalid --lengths"):
            parse_lengths(text)
    for text in ("", "101", "-1", "a", "nan", "0;50"):
        with pytest.raises(InputError, match="Invalid --depths"):
            parse_depths(text)
