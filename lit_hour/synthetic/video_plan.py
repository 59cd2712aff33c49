"""Plan the videos of a data set: name, seed and duration of each, and the story of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.io.sampling import seed_of
from lit_hour.synthetic.questions.generate import generate_questions, parse_tasks
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.text.timestamp import parse_duration

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

HOUR_SECONDS = 3600.0
MAX_ATTEMPTS = 50  # to draw a story that has material for every task of `synthetic.tasks`


@dataclass(frozen=True)
class VideoPlan:
    """A video to make; `name` is its file name without the suffix."""

    name: str
    seed: int
    duration_seconds: float


def plan_split(settings: SyntheticConfig, split: Split) -> list[VideoPlan]:
    """Plan a split: first the videos of an hour, then the others of about `duration_seconds`.

    The duration of the others varies by a third up and down. Seeds of videos are unique over
    splits and over values of `settings.seed`.

    Raises:
        SyntheticDataError: there is no video to make, or there are more hours than videos.
    """
    name = "num_videos" if split == "train" else "num_val_videos"
    num_videos = getattr(settings, name)
    if num_videos < 1:
        raise SyntheticDataError(f"synthetic.{name} is {num_videos}. It must be at least 1.")
    if settings.num_hour_videos > num_videos:
        raise SyntheticDataError(
            f"synthetic.num_hour_videos is {settings.num_hour_videos}, but synthetic.{name} is"
            f" {num_videos}. The first counts videos among the second, so it cannot be larger."
        )
    plans = []
    for index in range(num_videos):
        seed = (settings.seed << 33) | ((split == "validation") << 32) | index
        ratio = Random(f"duration of story {seed}").uniform(2 / 3, 4 / 3)
        is_hour = index < settings.num_hour_videos
        short_seconds = float(round(settings.duration_seconds * ratio))
        plans.append(VideoPlan(_name(index), seed, HOUR_SECONDS if is_hour else short_seconds))
    return plans


def plan_hours(hours: float, duration_range: tuple[float, float], seed: int) -> list[VideoPlan]:
    """Plan as many videos as it takes to fill so many hours.

    More hours with the same seed begin with the same videos.

    Args:
        hours: total duration; the last video may exceed it.
        duration_range: shortest and longest duration in seconds.
        seed: of the durations and the stories.

    Raises:
        SyntheticDataError: `hours` is not a positive number.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise SyntheticDataError(f"Invalid --hours {hours:g}. Give a number above 0.")
    shortest, longest = map(round, duration_range)
    plans: list[VideoPlan] = []
    total_seconds = 0.0
    while total_seconds < hours * HOUR_SECONDS:
        story_seed = seed_of(repr(("set", seed, len(plans))), 16)
        random = Random(f"duration of story {story_seed}")
        duration_seconds = float(random.randint(shortest, longest))
        plans.append(VideoPlan(_name(len(plans)), story_seed, duration_seconds))
        total_seconds += duration_seconds
    return plans


def parse_duration_range(text: str) -> tuple[float, float]:
    """Return the shortest and the longest duration in seconds of `3m-60m`, `1h`, `90s` or `1h30m`.

    Raises:
        SyntheticDataError: the text has another form, is zero, or its ends are in the wrong order.
    """
    parts = [parse_duration(part) for part in text.split("-")]
    seconds = [duration for duration in parts if duration is not None]
    if not len(seconds) == len(parts) <= 2:
        raise SyntheticDataError(
            f"Invalid --length {text}. Give one duration or two, such as 90s, 3m, 1h30m or 3m-60m."
        )
    shortest, longest = seconds[0], seconds[-1]
    if shortest == 0:
        raise SyntheticDataError(
            f"Invalid --length {text}. A video cannot last 0 seconds. Give at least 10s."
        )
    if shortest > longest:
        swapped = "-".join(reversed(text.split("-")))
        raise SyntheticDataError(
            f"Invalid --length {text}. The shortest duration comes first: {swapped}."
        )
    return float(shortest), float(longest)


def generate_planned_story(plan: VideoPlan, settings: SyntheticConfig) -> Story:
    """Generate the story of a planned video.

    If `settings.tasks` names tasks, stories are drawn until one has material for all of them.

    Raises:
        SyntheticDataError: no story has this duration, a task is unknown, or none of `MAX_ATTEMPTS`
            stories has the material.
    """
    tasks = parse_tasks(settings.tasks)
    for attempt in range(MAX_ATTEMPTS if tasks else 1):
        story = generate_story(
            seed_of(repr(("attempt", plan.seed, attempt)), 16) if attempt else plan.seed,
            plan.duration_seconds,
            settings.difficulty,
            settings.num_actors,
            settings.actions_per_minute,
            settings.num_needles,
            settings.needle_seconds,
        )
        try:
            if tasks:
                generate_questions(story, plan.name, tasks, settings.questions_per_task)
            return story
        except SyntheticDataError as error:
            last_error = error
    raise SyntheticDataError(
        f"None of {MAX_ATTEMPTS} stories drawn for {plan.name} has material for every task of"
        f" synthetic.tasks. Of the last one: {last_error}"
    )


def _name(index: int) -> str:
    return f"synthetic_{index:05d}"
