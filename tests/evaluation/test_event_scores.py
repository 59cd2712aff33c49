"""Scores of described events against known truth."""

from dataclasses import replace

import pytest

from lit_hour.errors import ReportError
from lit_hour.evaluation.event_scores import EventScores, score_events
from lit_hour.synthetic.captions import list_events
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.text.chapters import Passage, format_lines, parse_lines

TRUE = [
    Passage(0, 4, "The red star spins."),
    Passage(10, 14, "The blue circle leaves to the left."),
    Passage(30, 33, "The red star spins."),
]


@pytest.fixture(scope="module")
def world() -> list[Passage]:
    """The events of ten minutes of the synthetic world."""
    story = generate_story(3, 600.0)
    return [
        Passage(event.start_seconds, event.end_seconds, event.text) for event in list_events(story)
    ]


def shifted(events: list[Passage], seconds: float) -> list[Passage]:
    return [
        Passage(event.start_seconds + seconds, event.end_seconds + seconds, event.text)
        for event in events
    ]


def test_the_truth_scores_one(world: list[Passage]) -> None:
    for events in (TRUE, world):
        assert score_events(events, events) == EventScores(len(events), len(events), 1, 1, 0, 0)
    assert len(world) > 50


def test_the_truth_as_lines_of_full_seconds_scores_one(world: list[Passage]) -> None:
    scores = score_events(world, parse_lines(format_lines(world), 0, 600, 600))
    assert scores.recall > 0.99 and scores.start_error_seconds < 1 > scores.end_error_seconds


def test_a_shift_within_the_tolerance_costs_time_alone() -> None:
    scores = score_events(TRUE, shifted(TRUE, 3.0))
    assert (scores.recall, scores.precision) == (1, 1)
    assert (scores.start_error_seconds, scores.end_error_seconds) == (3, 3)
    scores = score_events(TRUE, shifted(TRUE, 3.0), tolerance_seconds=2.0)
    assert (scores.recall, scores.precision, scores.start_error_seconds) == (0, 0, 3)


def test_a_shift_beyond_the_tolerance_finds_nothing_of_unique_events() -> None:
    unique = [replace(event, text=f"{event.text} number {n}") for n, event in enumerate(TRUE)]
    scores = score_events(unique, shifted(unique, 20.0))
    assert (scores.recall, scores.start_error_seconds) == (0, 20)


def test_missing_and_invented_events_count() -> None:
    half = score_events(TRUE, TRUE[:1])
    assert (half.recall, half.precision) == (pytest.approx(1 / 3), 1)
    more = score_events(TRUE, [*TRUE, Passage(50, 51, "A dog barks loudly.")])
    assert (more.recall, more.precision) == (1, 0.75)
    nothing = score_events(TRUE, [])
    assert (nothing.recall, nothing.precision, nothing.start_error_seconds) == (0, 0, None)


def test_another_action_or_figure_does_not_fit() -> None:
    for text in ("The red star moves left.", "The blue star spins.", "Nothing.", ""):
        assert score_events(TRUE[:1], [Passage(0, 4, text)]).recall == 0
    assert score_events(TRUE[:1], [Passage(0, 4, "the RED star spins")]).recall == 1


def test_one_described_event_counts_once() -> None:
    repeated = [Passage(0, 4, "The red star spins.")] * 5
    scores = score_events(TRUE, repeated, tolerance_seconds=5)
    assert (scores.recall, scores.precision) == (pytest.approx(1 / 3), 0.2)


def test_a_video_without_events_is_refused() -> None:
    with pytest.raises(ReportError, match="no true event"):
        score_events([], TRUE)
