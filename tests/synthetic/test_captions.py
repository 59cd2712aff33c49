from itertools import pairwise

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.captions import (
    describe_clip,
    list_events,
    split_into_clips,
    summarize_story,
)
from lit_hour.synthetic.story_generator import generate_story
from tests.synthetic.frame_oracle import FrameOracle

FULL_STORIES = [generate_story(seed, seconds) for seed in range(8) for seconds in (30.0, 250.5)]
STORIES = [*FULL_STORIES, generate_story(1, 90.0, "easy")]


def test_caption_names_what_the_clip_shows_and_nothing_else():
    for story in FULL_STORIES:
        oracle = FrameOracle(story)
        names = {actor.name for actor in story.actors}
        for start, end in split_into_clips(story, 20.0):
            caption = describe_clip(story, start, end)
            seconds = oracle.seconds[int(start) : int(end)]
            shown = {name for second in seconds for name in (*second.figures, *second.hidden)}
            clauses = {" ".join(("the", *second.acting)) for second in seconds if second.acting}
            assert {name for name in names if name in caption.object} == shown
            assert all(clause in caption.action.lower() for clause in clauses)
            assert all(clause in caption.temporality for clause in clauses)
            assert all(second.background in caption.scene for second in seconds)
            assert all(f"the {name} is " in caption.spatiality for name in shown)
            for part in (caption.scene, caption.object, caption.action):
                assert part in caption.overall


def test_clips_cover_the_story():
    for story in STORIES:
        clips = split_into_clips(story, 60.0)
        assert clips[0][0] == 0 and clips[-1][1] == story.duration_seconds
        assert all(one[1] == other[0] for one, other in pairwise(clips))


@pytest.mark.parametrize("clip", [(5.0, 5.0), (9.0, 5.0), (-1.0, 5.0), (0.0, 31.0)])
def test_invalid_clip_is_refused(clip: tuple[float, float]):
    with pytest.raises(
        SyntheticDataError, match=rf"Invalid clip from {clip[0]} s to {clip[1]} s\. .* of 30 s\."
    ):
        describe_clip(STORIES[0], *clip)


def test_events_contain_every_action_once():
    for story in STORIES:
        events = list_events(story)
        assert all(one.end_seconds <= other.start_seconds for one, other in pairwise(events))
        for action in story.actions:
            (event,) = [
                event
                for event in events
                if event.start_seconds <= action.start_seconds < event.end_seconds
            ]
            assert action.predicate in event.text
            assert event.text.lower().startswith(f"the {action.actor.name}")


def test_summary_names_all_figures_and_first_and_last_background():
    for story in STORIES:
        summary = summarize_story(story)
        assert all(actor.name in summary for actor in story.actors)
        first, last = story.scenes[0].background.name, story.scenes[-1].background.name
        assert f"begins on a {first} background and ends on a {last} one" in summary
        assert len(summary) < 1500
