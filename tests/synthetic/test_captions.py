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
from tests.synthetic.witness import Witness

STORIES = [generate_story(seed, seconds) for seed in range(8) for seconds in (30.0, 250.5)] + [
    generate_story(1, 90.0, "easy")
]


def test_a_caption_names_what_the_clip_shows_and_nothing_else():
    for story in STORIES[:-1]:
        seen = Witness(story)
        names = {actor.name for actor in story.actors}
        for start, end in split_into_clips(story, 20.0):
            caption = describe_clip(story, start, end)
            sights = seen.sights[int(start) : int(end)]
            shown = {name for sight in sights for name in (*sight.figures, *sight.hidden)}
            done = {f"the {sight.doing[0]} {sight.doing[1]}" for sight in sights if sight.doing}
            assert {name for name in names if name in caption.object} == shown
            assert all(
                clause in caption.action.lower() and clause in caption.temporality
                for clause in done
            )
            assert all(sight.background in caption.scene for sight in sights)
            assert all(f"the {name} is " in caption.spatiality for name in shown)
            assert all(
                part in caption.overall for part in (caption.scene, caption.object, caption.action)
            )


def test_clips_cover_the_story():
    for story in STORIES:
        cut = split_into_clips(story, 60.0)
        assert cut[0][0] == 0 and cut[-1][1] == story.duration_seconds
        assert all(one[1] == other[0] for one, other in pairwise(cut))


@pytest.mark.parametrize("clip", [(5.0, 5.0), (9.0, 5.0), (-1.0, 5.0), (0.0, 31.0)])
def test_a_clip_that_is_none_is_refused(clip: tuple[float, float]):
    with pytest.raises(SyntheticDataError, match=r"there is no clip from .* in a story of 30 s"):
        describe_clip(STORIES[0], *clip)


def test_events_have_every_deed_once():
    for story in STORIES:
        told = list_events(story)
        assert all(one.end_seconds <= other.start_seconds for one, other in pairwise(told))
        for deed in story.actions:
            (event,) = [
                each for each in told if each.start_seconds <= deed.start_seconds < each.end_seconds
            ]
            assert deed.predicate in event.text and event.text.lower().startswith(
                f"the {deed.actor.name}"
            )


def test_a_summary_names_everybody_and_both_ends():
    for story in STORIES:
        told = summarize_story(story)
        assert all(actor.name in told for actor in story.actors)
        first, last = story.scenes[0].background.name, story.scenes[-1].background.name
        assert f"begins on a {first} background and ends on a {last} one" in told
        assert len(told) < 1500
