import math
import time
from collections import Counter
from itertools import combinations, pairwise

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.story import (
    BACKGROUND_COLORS,
    COLORS,
    PATTERNS,
    PROPS,
    SHAPES,
    SOLO_VERBS,
    cell_center,
)
from lit_hour.synthetic.story_generator import generate_story

DURATIONS = (10.0, 30.0, 100.5, 180.0, 3600.0)
STORIES = [generate_story(seed, seconds) for seconds in DURATIONS for seed in range(20)]
SCENES = [(story, scene) for story in STORIES for scene in story.scenes]
OTHER_VERBS = {"enters", "returns", "leaves", "touches", "pushes", "hides", "comes out"}


def test_same_arguments_give_the_same_story():
    assert generate_story(7, 180.0) == generate_story(7, 180.0)
    assert generate_story(7, 180.0) != generate_story(7, 180.0, num_actors=9)


@pytest.mark.parametrize("difficulty", ["easy", "full"])
def test_different_seeds_give_different_stories(difficulty):
    assert len({generate_story(seed, 180.0, difficulty).scenes for seed in range(300)}) == 300


def test_scenes_are_contiguous_with_changing_backgrounds():
    for story in STORIES:
        assert story.scenes[0].start_seconds == 0
        assert story.scenes[-1].end_seconds == story.duration_seconds
        for before, after in pairwise(story.scenes):
            assert before.end_seconds == after.start_seconds, story
            assert before.background != after.background, story
    for story, scene in SCENES:
        assert scene.appearances, story
        for appearance in scene.appearances:
            assert appearance.start_seconds < appearance.end_seconds, story


def test_actions_are_separated_whole_seconds_inside_their_scene():
    for story, scene in SCENES:
        edges = [seconds for action in scene.actions for seconds in action.interval]
        assert all(seconds == int(seconds) for seconds in edges), story
        for before, after in pairwise([scene.start_seconds, *edges, scene.end_seconds]):
            assert before < after, story
        for action in scene.actions:
            assert action.end_seconds - action.start_seconds >= 3, story


def test_acting_figure_is_present_and_not_hidden():
    for story, scene in SCENES:
        for action in scene.actions:
            (appearance,) = [
                item
                for item in scene.appearances
                if item.actor == action.actor and item.is_present_at(action.start_seconds)
            ]
            assert appearance.start_seconds <= action.start_seconds, story
            assert action.end_seconds <= appearance.end_seconds, story
            for start, end in appearance.hidden_intervals:
                assert end <= action.start_seconds or action.end_seconds <= start, story


def test_figures_at_rest_keep_their_distance_inside_the_frame():
    for story, scene in SCENES:
        props = [cell_center(prop.cell) for prop in scene.props]
        for action in scene.actions:
            seconds = action.end_seconds
            present = [item for item in scene.appearances if item.is_present_at(seconds)]
            visible = [item for item in present if not item.is_hidden_at(seconds)]
            points = [item.position_at(seconds) for item in visible]
            for one, other in combinations([*points, *props], 2):
                assert math.dist(one, other) >= 0.29, story
            assert all(0.2 <= value <= 0.8 for point in points for value in point), story
            for item in present:
                assert item in visible or item.position_at(seconds) in props, story


def test_names_are_unique_and_backgrounds_have_no_color_of_a_figure():
    for story in STORIES:
        assert len({actor.name for actor in story.actors}) == len(story.actors) <= 10
        assert {scene.background.color for scene in story.scenes}.isdisjoint(COLORS)
    assert all(len({prop.kind for prop in scene.props}) == 2 for _, scene in SCENES)


def test_guests_are_in_one_scene_and_regulars_return():
    for seed in range(20):
        story = generate_story(seed, 3600.0)
        num_scenes = Counter(actor for scene in story.scenes for actor in scene.actors)
        guests = [actor for actor, count in num_scenes.items() if count == 1]
        assert 3 <= len(guests) <= 6  # fewer than six where a guest found no free way to enter
        assert all(count > 5 for actor, count in num_scenes.items() if actor not in guests)


def test_every_verb_color_shape_pattern_and_prop_occurs():
    stories = [generate_story(seed, 600.0) for seed in range(30)]
    scenes = [scene for story in stories for scene in story.scenes]
    actors = [actor for story in stories for actor in story.actors]
    verbs = {action.verb for story in stories for action in story.actions}
    assert verbs == {*SOLO_VERBS, *OTHER_VERBS}
    assert {scene.background.color for scene in scenes} == set(BACKGROUND_COLORS)
    assert {scene.background.pattern for scene in scenes} == set(PATTERNS)
    assert {prop.kind for scene in scenes for prop in scene.props} == set(PROPS)
    assert {actor.shape for actor in actors} == set(SHAPES)
    assert {actor.color for actor in actors} == set(COLORS)
    assert {actor.size_word for actor in actors} == {"small", "large"}


@pytest.mark.parametrize("actions_per_minute", [2, 6, 10, 15])
def test_actions_per_minute_is_the_mean_rate(actions_per_minute: float):
    stories = [
        generate_story(seed, 1200.0, actions_per_minute=actions_per_minute) for seed in range(10)
    ]
    mean = sum(len(story.actions) for story in stories) / 200
    assert 0.75 * actions_per_minute < mean < 1.1 * actions_per_minute


def test_story_of_ten_hours_takes_seconds():
    started = time.process_time()
    story = generate_story(0, 36000.0)
    assert time.process_time() - started < 3
    assert len(story.actions) > 5000 and 150 < len(story.scenes) < 500


@pytest.mark.parametrize("duration_seconds", [0.0, -5.0, 9.9, math.nan, math.inf])
def test_duration_shorter_than_a_scene_is_refused(duration_seconds: float):
    message = rf"Cannot generate a story of {duration_seconds} s\. .* at least"
    with pytest.raises(SyntheticDataError, match=f"{message} 10 s"):
        generate_story(0, duration_seconds)
    if not duration_seconds > 4:
        with pytest.raises(SyntheticDataError, match=f"{message} 4 s"):
            generate_story(0, duration_seconds, "easy")


@pytest.mark.parametrize("num_actors", [0, 37])
def test_more_figures_than_shapes_and_colors_are_refused(num_actors: int):
    with pytest.raises(
        SyntheticDataError,
        match=rf"{num_actors} figures\. synthetic\.num_actors must be 1 to 36, .* 6 shapes",
    ):
        generate_story(0, 60.0, num_actors=num_actors)
    assert len(generate_story(0, 3600.0, num_actors=36).actors) > 30
