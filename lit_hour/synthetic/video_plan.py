"""Settings in, the list of the videos of a set out: each with a name, a seed and a duration, and the story that follows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions, parse_tasks
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.story_generator import generate_story

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

HOUR_SECONDS = 3600.0
NUM_ATTEMPTS = 50  # to draw a story that has material for the tasks that are asked for by name
LENGTH = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True)
class VideoPlan:
    """A video that is to be made; `name` is its file name without the suffix."""

    name: str
    seed: int
    duration_seconds: float


def plan_split(settings: SyntheticConfig, split: Split) -> list[VideoPlan]:
    """The videos of a split: first those of an hour, then those of `duration_seconds` give or take a third.

    No two videos of any split of any `settings.seed` have the same seed.

    Raises:
        SyntheticDataError: there is no video to make, or there are more hours than videos.
    """
    name = "num_videos" if split == "train" else "num_val_videos"
    num_videos = getattr(settings, name)
    if num_videos < 1:
        raise SyntheticDataError(
            f"synthetic.{name} is {num_videos}: a world has at least one video in it"
        )
    if settings.num_hour_videos > num_videos:
        raise SyntheticDataError(
            f"synthetic.num_hour_videos is {settings.num_hour_videos}, but synthetic.{name} is {num_videos}: "
            "the hours are among the videos, so there cannot be more of them"
        )
    plans = []
    for index in range(num_videos):
        seed = (settings.seed << 33) | ((split == "validation") << 32) | index
        share = Random(f"duration of story {seed}").uniform(2 / 3, 4 / 3)
        is_hour = index < settings.num_hour_videos
        duration_seconds = (
            HOUR_SECONDS if is_hour else float(round(settings.duration_seconds * share))
        )
        plans.append(VideoPlan(_name(index), seed, duration_seconds))
    return plans


def plan_hours(hours: float, length_seconds: tuple[float, float], seed: int) -> list[VideoPlan]:
    """As many videos of durations between the two as make so many hours; more hours begin with the same videos.

    Raises:
        SyntheticDataError: there is nothing to make.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise SyntheticDataError(
            f"--hours {hours:g}: a set has to have some; give a number above 0"
        )
    plans: list[VideoPlan] = []
    made_seconds = 0.0
    while made_seconds < hours * HOUR_SECONDS:
        story_seed = _derive_seed("set", seed, len(plans))
        duration_seconds = float(
            Random(f"duration of story {story_seed}").randint(*map(round, length_seconds))
        )
        plans.append(VideoPlan(_name(len(plans)), story_seed, duration_seconds))
        made_seconds += duration_seconds
    return plans


def parse_length(words: str) -> tuple[float, float]:
    """Shortest and longest duration in seconds, from `3m-60m`, `1h`, `90s` or `1h30m`.

    Raises:
        SyntheticDataError: it is no such length, is zero, or the shortest is longer than the longest.
    """
    parts = [LENGTH.fullmatch(part.strip()) for part in words.split("-")]
    if len(parts) > 2 or not all(parts):
        raise SyntheticDataError(
            f"--length {words}: write one duration or two, such as 90s, 3m, 1h30m or 3m-60m"
        )
    seconds = [
        sum(
            int(number or 0) * unit
            for number, unit in zip(part.groups(), (3600, 60, 1), strict=True)
        )
        for part in parts
        if part
    ]
    shortest, longest = seconds[0], seconds[-1]
    if shortest == 0:
        raise SyntheticDataError(
            f"--length {words}: a video of 0 seconds shows nothing; give at least 10s"
        )
    if shortest > longest:
        raise SyntheticDataError(
            f"--length {words}: the shortest has to come first: {'-'.join(reversed(words.split('-')))}"
        )
    return float(shortest), float(longest)


def generate_planned_story(plan: VideoPlan, settings: SyntheticConfig) -> Story:
    """The story of a video. With tasks asked for by name, the first one drawn that has material for all of them.

    Raises:
        SyntheticDataError: such a story cannot be told, there is no such task, or none of `NUM_ATTEMPTS` stories has the material.
    """
    tasks = parse_tasks(settings.tasks)
    for attempt in range(NUM_ATTEMPTS if tasks else 1):
        story = generate_story(
            _derive_seed("attempt", plan.seed, attempt) if attempt else plan.seed,
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
            reason = error
    raise SyntheticDataError(
        f"none of {NUM_ATTEMPTS} stories drawn for {plan.name} will do: {reason}"
    )


def _name(index: int) -> str:
    return f"world_{index:05d}"


def _derive_seed(*words: object) -> int:
    """A seed that no other words have."""
    return int.from_bytes(sha256(repr(words).encode()).digest()[:16], "big")
