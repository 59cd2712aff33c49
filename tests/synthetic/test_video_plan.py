import re
from dataclasses import replace

import pytest

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.video_plan import (
    SPLITS,
    generate_planned_story,
    parse_duration_range,
    plan_hours,
    plan_split,
)

SETTINGS = SyntheticConfig(num_videos=3, num_val_videos=2, num_hour_videos=0, duration_seconds=30.0)


def test_seeds_and_stories_are_unique_over_splits_and_settings():
    settings = replace(SETTINGS, num_videos=20, num_val_videos=20)
    plans = [
        plan
        for seed in (0, 1, 2)
        for split in SPLITS
        for plan in plan_split(replace(settings, seed=seed), split)
    ]
    plans += [plan for seed in (0, 1, 2) for plan in plan_hours(0.2, (30.0, 30.0), seed)]
    stories = [generate_planned_story(plan, SETTINGS) for plan in plans]
    assert len(plans) == 120 + 3 * 24
    assert len({story.seed for story in stories}) == len(plans)
    assert len({story.scenes for story in stories}) == len(plans)


def test_split_starts_with_hours_and_varies_the_other_durations_by_a_third():
    settings = replace(SETTINGS, num_videos=60, num_hour_videos=2)
    durations = [plan.duration_seconds for plan in plan_split(settings, "train")]
    assert durations[:2] == [3600.0, 3600.0]
    assert all(20 <= duration <= 40 for duration in durations[2:])
    assert min(durations[2:]) < 24 and max(durations[2:]) > 36


def test_split_without_videos_is_refused():
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
    assert all(180 <= duration <= 3600 for duration in durations)
    assert len(set(durations)) > len(durations) / 2
    assert plan_hours(20, (180.0, 3600.0), seed=0)[: len(plans)] == plans
    assert len({plan.name for plan in plans}) == len(plans)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_hours_are_refused(hours: float):
    with pytest.raises(
        SyntheticDataError, match=rf"Invalid --hours {hours:g}\. Give a number above 0"
    ):
        plan_hours(hours, (60.0, 60.0), 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", (90, 90)),
        ("3m-60m", (180, 3600)),
        ("1h", (3600, 3600)),
        ("1h30m-2h", (5400, 7200)),
        ("1m5s", (65, 65)),
    ],
)
def test_parse_duration_range(text: str, seconds: tuple[float, float]):
    assert parse_duration_range(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Give one duration or two, such as"),
        ("ten", "Give one duration or two, such as"),
        ("3-60m", "Give one duration or two, such as"),
        ("1m-2m-3m", "Give one duration or two, such as"),
        ("0s", "A video cannot last 0 seconds"),
        ("0m-5m", "A video cannot last 0 seconds"),
        ("60m-3m", "The shortest duration comes first: 3m-60m"),
    ],
)
def test_parse_duration_range_refuses_other_texts(text: str, message: str):
    with pytest.raises(SyntheticDataError, match=re.escape(f"Invalid --length {text}. {message}")):
        parse_duration_range(text)


def test_stories_are_drawn_until_they_have_material_for_the_named_tasks():
    plans = plan_hours(0.6, (180.0, 180.0), 0)
    settings = replace(SETTINGS, tasks="object_permanence,overall_summarization")
    tasks = ("object/object_permanence", "event/overall_summarization")
    num_redrawn = 0
    for plan in plans:
        story = generate_planned_story(plan, settings)
        questions = generate_questions(story, plan.name, tasks)
        assert {question.task for question in questions} == set(tasks)
        num_redrawn += story.seed != plan.seed
    assert 0 < num_redrawn <= len(plans)
    first = generate_planned_story(plans[0], settings)
    assert generate_planned_story(plans[0], settings) == first


def test_task_without_material_in_any_story_is_refused():
    (plan, *_) = plan_hours(0.001, (10.0, 10.0), 0)
    with pytest.raises(
        SyntheticDataError,
        match=r"None of 50 stories drawn for synthetic_00000 has material .*"
        r"no material for scene/scene_transition\. It needs three scenes",
    ):
        generate_planned_story(plan, replace(SETTINGS, tasks="scene_transition"))
