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
    Story,
    cell_center,
)
from lit_hour.synthetic.story_generator import generate_story

DURATIONS = (10.0, 30.0, 100.5, 180.0, 3600.0)
STORIES = [generate_story(seed, seconds) for seconds in DURATIONS for seed in range(20)]
OTHER_DEEDS = {"enters", "returns", "leaves", "touches", "pushes", "hides", "comes out"}


def test_the_same_arguments_tell_the_same_story():
    assert generate_story(7, 180.0) == generate_story(7, 180.0)
    assert generate_story(7, 180.0) != generate_story(7, 180.0, num_actors=9)


@pytest.mark.parametrize("difficulty", ["easy", "full"])
def test_no_two_seeds_tell_the_same_story(difficulty):
    assert len({generate_story(seed, 180.0, difficulty).scenes for seed in range(300)}) == 300


@pytest.mark.parametrize("story", STORIES)
def test_scenes_fill_the_story_without_a_gap_on_changing_backgrounds(story: Story):
    assert story.scenes[0].start_seconds == 0
    assert story.scenes[-1].end_seconds == story.duration_seconds
    assert all(one.end_seconds == other.start_seconds for one, other in pairwise(story.scenes))
    assert all(one.background != other.background for one, other in pairwise(story.scenes))
    assert all(
        scene.appearances and all(stay.interval[0] < stay.interval[1] for stay in scene.appearances)
        for scene in story.scenes
    )


@pytest.mark.parametrize("story", STORIES)
def test_deeds_follow_one_another_inside_their_scene(story: Story):
    for scene in story.scenes:
        edges = [
            scene.start_seconds,
            *(moment for deed in scene.actions for moment in deed.interval),
            scene.end_seconds,
        ]
        assert all(one < other for one, other in pairwise(edges))
        assert all(deed.end_seconds - deed.start_seconds >= 3 for deed in scene.actions)
        assert all(moment == int(moment) for moment in edges[1:-1])


@pytest.mark.parametrize("story", STORIES)
def test_who_does_something_is_there_and_not_hidden(story: Story):
    for scene in story.scenes:
        for deed in scene.actions:
            (stay,) = [
                stay
                for stay in scene.appearances
                if stay.actor == deed.actor and stay.is_present_at(deed.start_seconds)
            ]
            assert stay.start_seconds <= deed.start_seconds and deed.end_seconds <= stay.end_seconds
            assert not any(
                start < deed.end_seconds and deed.start_seconds < end
                for start, end in stay.hidden_intervals
            )


@pytest.mark.parametrize("story", STORIES)
def test_figures_stand_apart_and_inside_the_frame_while_nothing_happens(story: Story):
    for scene in story.scenes:
        taken = [cell_center(prop.cell) for prop in scene.props]
        for deed in scene.actions:
            seconds = deed.end_seconds
            stays = [stay for stay in scene.appearances if stay.is_present_at(seconds)]
            points = [stay.position_at(seconds) for stay in stays if not stay.is_hidden_at(seconds)]
            assert all(
                math.dist(one, other) >= 0.29 for one, other in combinations([*points, *taken], 2)
            )
            assert all(0.2 <= share <= 0.8 for point in points for share in point)
            assert all(
                stay.position_at(seconds) in taken for stay in stays if stay.is_hidden_at(seconds)
            )


def test_names_single_out_and_backgrounds_differ_from_figures():
    for story in STORIES:
        assert len({actor.name for actor in story.actors}) == len(story.actors) <= 10
        assert {scene.background.color for scene in story.scenes}.isdisjoint(COLORS)
    assert all(
        len({prop.kind for prop in scene.props}) == 2 for story in STORIES for scene in story.scenes
    )


def test_a_guest_is_there_for_one_scene_and_others_return():
    for seed in range(20):
        story = generate_story(seed, 3600.0)
        num_scenes = Counter(actor for scene in story.scenes for actor in scene.actors)
        guests = [actor for actor, count in num_scenes.items() if count == 1]
        assert 3 <= len(guests) <= 6  # one who was to come in later may find no place
        assert all(count > 5 for actor, count in num_scenes.items() if actor not in guests)


def test_every_word_is_used():
    stories = [generate_story(seed, 600.0) for seed in range(30)]
    deeds = [deed for story in stories for deed in story.actions]
    scenes = [scene for story in stories for scene in story.scenes]
    assert {deed.verb for deed in deeds} == {*SOLO_VERBS, *OTHER_DEEDS}
    assert {scene.background.color for scene in scenes} == set(BACKGROUND_COLORS)
    assert {scene.background.pattern for scene in scenes} == set(PATTERNS)
    assert {prop.kind for scene in scenes for prop in scene.props} == set(PROPS)
    assert {actor.shape for story in stories for actor in story.actors} == set(SHAPES)
    assert {actor.color for story in stories for actor in story.actors} == set(COLORS)
    assert {actor.size_word for story in stories for actor in story.actors} == {"small", "large"}


@pytest.mark.parametrize("actions_per_minute", [2, 6, 10, 15])
def test_density_is_as_asked(actions_per_minute: float):
    stories = [
        generate_story(seed, 1200.0, actions_per_minute=actions_per_minute) for seed in range(10)
    ]
    mean = sum(len(story.actions) for story in stories) / 200
    assert 0.75 * actions_per_minute < mean < 1.1 * actions_per_minute


def test_ten_hours_are_written_in_seconds():
    started = time.process_time()
    story = generate_story(0, 36000.0)
    assert time.process_time() - started < 3
    assert len(story.actions) > 5000 and 150 < len(story.scenes) < 500


@pytest.mark.parametrize("duration_seconds", [0.0, -5.0, 9.9, math.nan, math.inf])
def test_a_duration_that_holds_no_scene_is_refused(duration_seconds: float):
    with pytest.raises(
        SyntheticDataError, match=f"a story of {duration_seconds} s cannot be told.*at least 10 s"
    ):
        generate_story(0, duration_seconds)
    if not duration_seconds > 4:
        with pytest.raises(
            SyntheticDataError,
            match=f"a story of {duration_seconds} s cannot be told.*at least 4 s",
        ):
            generate_story(0, duration_seconds, "easy")


@pytest.mark.parametrize("num_actors", [0, 37])
def test_more_figures_than_shapes_and_colours_are_refused(num_actors: int):
    with pytest.raises(
        SyntheticDataError,
        match=f"a story of {num_actors} figures .*synthetic.num_actors has to be 1 to 36, .*6 shapes",
    ):
        generate_story(0, 60.0, num_actors=num_actors)
    assert len(generate_story(0, 3600.0, num_actors=36).actors) > 30
