from dataclasses import replace

import pytest

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.video_plan import (
    generate_planned_story,
    parse_length,
    plan_hours,
    plan_split,
)

SETTINGS = SyntheticConfig(num_videos=3, num_val_videos=2, num_hour_videos=0, duration_seconds=30.0)


def test_no_two_seeds_share_a_video():
    worlds = [replace(SETTINGS, num_videos=20, num_val_videos=20, seed=seed) for seed in (0, 1, 2)]
    plans = [
        plan
        for world in worlds
        for split in ("train", "validation")
        for plan in plan_split(world, split)
    ]
    plans += [plan for seed in (0, 1, 2) for plan in plan_hours(0.2, (30.0, 30.0), seed)]
    stories = [generate_planned_story(plan, SETTINGS) for plan in plans]
    assert (
        len({story.seed for story in stories})
        == len({story.scenes for story in stories})
        == len(plans)
        == 120 + 3 * 24
    )


def test_durations_are_the_set_one_give_or_take_a_third_and_hours_come_first():
    durations = [
        plan.duration_seconds
        for plan in plan_split(replace(SETTINGS, num_videos=60, num_hour_videos=2), "train")
    ]
    assert durations[:2] == [3600.0, 3600.0]
    assert all(20 <= duration <= 40 for duration in durations[2:])
    assert min(durations[2:]) < 24 and max(durations[2:]) > 36


def test_a_world_without_videos_is_refused():
    with pytest.raises(SyntheticDataError, match=r"synthetic\.num_videos is 0"):
        plan_split(replace(SETTINGS, num_videos=0), "train")
    with pytest.raises(
        SyntheticDataError,
        match=r"synthetic\.num_hour_videos is 3, but synthetic\.num_val_videos is 2",
    ):
        plan_split(replace(SETTINGS, num_hour_videos=3), "validation")


def test_hours_are_filled_and_more_hours_begin_the_same():
    plans = plan_hours(10, (180.0, 3600.0), seed=0)
    durations = [plan.duration_seconds for plan in plans]
    assert 36000 <= sum(durations) < 36000 + 3600
    assert (
        all(180 <= duration <= 3600 for duration in durations)
        and len(set(durations)) > len(durations) / 2
    )
    assert plan_hours(20, (180.0, 3600.0), seed=0)[: len(plans)] == plans
    assert len({plan.name for plan in plans}) == len(plans)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_that_make_nothing_are_refused(hours: float):
    with pytest.raises(SyntheticDataError, match=r"--hours .*give a number above 0"):
        plan_hours(hours, (60.0, 60.0), 0)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("90s", (90, 90)),
        ("3m-60m", (180, 3600)),
        ("1h", (3600, 3600)),
        ("1h30m-2h", (5400, 7200)),
        ("1m5s", (65, 65)),
    ],
)
def test_lengths(words: str, seconds: tuple[float, float]):
    assert parse_length(words) == seconds


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "write one duration or two, such as"),
        ("ten", "write one duration or two, such as"),
        ("3-60m", "write one duration or two, such as"),
        ("1m-2m-3m", "write one duration or two, such as"),
        ("0s", "a video of 0 seconds shows nothing"),
        ("0m-5m", "a video of 0 seconds shows nothing"),
        ("60m-3m", "the shortest has to come first: 3m-60m"),
    ],
)
def test_lengths_that_are_none_are_refused(words: str, reason: str):
    with pytest.raises(SyntheticDataError, match=f"--length {words}: {reason}"):
        parse_length(words)


def test_stories_are_drawn_until_they_have_the_tasks_that_are_named():
    plans = plan_hours(0.6, (180.0, 180.0), 0)
    named = replace(SETTINGS, tasks="object_permanence,overall_summarization")
    drawn_again = 0
    for plan in plans:
        story = generate_planned_story(plan, named)
        asked = generate_questions(
            story, plan.name, ("object/object_permanence", "event/overall_summarization")
        )
        assert {question.task for question in asked} == {
            "object/object_permanence",
            "event/overall_summarization",
        }
        drawn_again += story.seed != plan.seed
    assert 0 < drawn_again <= len(plans)
    assert generate_planned_story(plans[0], named) == generate_planned_story(plans[0], named)


def test_a_task_that_no_story_of_this_length_has_is_refused():
    (plan, *_) = plan_hours(0.001, (10.0, 10.0), 0)
    reason = "none of 50 stories drawn for world_00000 will do: .* no material for scene/scene_transition: it needs three"
    with pytest.raises(SyntheticDataError, match=reason):
        generate_planned_story(plan, replace(SETTINGS, tasks="scene_transition"))
