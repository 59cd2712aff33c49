import math
from itertools import pairwise

import pytest

from lit_hour.errors import WorldError
from lit_hour.world.script import ACTIONS, COLOURS, SHAPES, SHORTEST_STORY_SECONDS, write_story

DURATIONS = (SHORTEST_STORY_SECONDS, 7.3, 30.0, 100.5, 180.0, 3600.0)


def test_the_same_arguments_tell_the_same_story():
    assert write_story(7, 180.0) == write_story(7, 180.0)


def test_no_two_seeds_tell_the_same_story():
    assert len({write_story(seed, 180.0).scenes for seed in range(300)}) == 300


@pytest.mark.parametrize("duration_seconds", DURATIONS)
def test_scenes_fill_the_story_without_a_gap(duration_seconds: float):
    for seed in range(50):
        story = write_story(seed, duration_seconds)
        assert story.scenes[0].start_seconds == 0
        assert story.scenes[-1].end_seconds == story.duration_seconds == duration_seconds
        assert all(scene.end_seconds - scene.start_seconds >= 2 for scene in story.scenes)
        assert all(one.end_seconds == other.start_seconds for one, other in pairwise(story.scenes))


@pytest.mark.parametrize("duration_seconds", DURATIONS)
def test_what_is_seen_can_be_told_apart(duration_seconds: float):
    for seed in range(50):
        scenes = write_story(seed, duration_seconds).scenes
        actors = {scene.actor for scene in scenes}
        assert len({actor.shape for actor in actors}) == len({actor.colour for actor in actors}) == len(actors)
        assert all(scene.background != scene.actor.colour for scene in scenes)
        assert all(one.background != other.background for one, other in pairwise(scenes))
        assert all((scene.actor.shape, scene.action) != ("circle", "spins") for scene in scenes)
        assert all(0.3 <= actor.size <= 0.5 for actor in actors)


@pytest.mark.parametrize(("duration_seconds", "shortest", "longest"), [(180.0, 7, 22), (3600.0, 20, 65)])
def test_scenes_get_longer_slowly(duration_seconds: float, shortest: float, longest: float):
    for seed in range(50):
        lengths = [scene.end_seconds - scene.start_seconds for scene in write_story(seed, duration_seconds).scenes]
        assert shortest <= min(lengths) and max(lengths) <= longest


def test_every_word_is_used():
    scenes = [scene for seed in range(50) for scene in write_story(seed, 180.0).scenes]
    assert {scene.background for scene in scenes} == {scene.actor.colour for scene in scenes} == set(COLOURS)
    assert {scene.actor.shape for scene in scenes} == set(SHAPES)
    assert {scene.action for scene in scenes} == set(ACTIONS)


def test_an_hour_has_a_guest_that_is_there_for_one_scene():
    for seed in range(20):
        shapes = [scene.actor.shape for scene in write_story(seed, 3600.0).scenes]
        assert any(shapes.count(shape) == 1 for shape in SHAPES)


@pytest.mark.parametrize("duration_seconds", [0.0, -5.0, 3.9, math.nan, math.inf])
def test_a_duration_that_holds_no_scene_is_refused(duration_seconds: float):
    with pytest.raises(WorldError, match=f"a story of {duration_seconds} s cannot be told.*at least 4 s"):
        write_story(0, duration_seconds)
