"""A seed in, the scenes of a needle story out: long ones on plain backgrounds, and a few that are over in seconds.

The short ones are the needles in the haystack: each has a pattern of its own on its background. One large figure is there all
the time.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.synthetic.story import (
    BACKGROUND_COLORS,
    COLORS,
    PATTERNS,
    SHAPES,
    Action,
    Actor,
    Appearance,
    Background,
    Scene,
)

NEEDLES = PATTERNS[1:]  # one with each pattern
MEAN_SCENE_SECONDS = 40.0
SHORTEST_SCENE_SECONDS = 5.0  # between two needles, and before the first and after the last
FIGURE_SIZE = 0.45


def shortest_needle_story(num_needles: int, needle_seconds: float) -> float:
    """Its duration in seconds."""
    return num_needles * (needle_seconds + 2 * SHORTEST_SCENE_SECONDS)


def play_needle_scenes(
    random: Random, duration_seconds: float, num_needles: int, needle_seconds: float
) -> list[Scene]:
    """Scenes from 0 to the end: each third of a story with three needles has one of them, at any depth of it."""
    part = duration_seconds / num_needles
    patterns = random.sample(NEEDLES, num_needles)
    starts = [
        float(
            round(
                random.uniform(
                    index * part + SHORTEST_SCENE_SECONDS, (index + 1) * part - needle_seconds - 1
                )
            )
        )
        for index in range(num_needles)
    ]
    actor = Actor(random.choice(SHAPES), random.choice(COLORS), FIGURE_SIZE, has_eye=False)
    scenes: list[Scene] = []
    ends = [*starts, duration_seconds]
    for start, end, pattern in zip(
        [0.0, *(start + needle_seconds for start in starts)], ends, [*patterns, None], strict=True
    ):
        for bounds in pairwise(_cut(random, start, end)):
            scenes.append(_play_scene(random, *bounds, _draw_background(random, scenes), actor))
        if pattern:
            needle = Background(_draw_background(random, scenes).color, pattern)
            scenes.append(_play_scene(random, end, end + needle_seconds, needle, actor))
    return scenes


def _cut(random: Random, start: float, end: float) -> list[float]:
    """Whole seconds at which scenes begin, and the end of the last."""
    num_scenes = max(1, round((end - start) / MEAN_SCENE_SECONDS))
    length = (end - start) / num_scenes
    inner = [
        float(round(start + (index + random.uniform(-0.3, 0.3)) * length))
        for index in range(1, num_scenes)
    ]
    return [start, *inner, end]


def _draw_background(random: Random, before: list[Scene]) -> Background:
    """A plain one in another colour than the scene before."""
    return Background(
        random.choice(
            [
                each
                for each in BACKGROUND_COLORS
                if not before or each != before[-1].background.color
            ]
        )
    )


def _play_scene(
    random: Random, start: float, end: float, background: Background, actor: Actor
) -> Scene:
    place = (start, random.uniform(0.3, 0.7), random.uniform(0.3, 0.7))
    stay, deed = Appearance(actor, start, end, (place,)), Action(actor, "stands still", start, end)
    return Scene(start, end, background, (), (stay,), (deed,))
