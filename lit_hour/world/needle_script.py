"""A seed in, the scenes of a needle story out: long ones on plain backgrounds, and three that are over in three seconds.

The short ones are the needles in the haystack: each has a pattern of its own on its background. One large figure is there all
the time.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.world.story import BACKGROUND_COLOURS, COLOURS, PATTERNS, SHAPES, Actor, Background, Deed, Scene, Stay

NEEDLES = PATTERNS[1:]  # one with each pattern
NEEDLE_SECONDS = 3.0
MEAN_SCENE_SECONDS = 40.0
SHORTEST_SCENE_SECONDS = 5.0  # between two needles, and before the first and after the last
SHORTEST_NEEDLE_STORY_SECONDS = len(NEEDLES) * (NEEDLE_SECONDS + 2 * SHORTEST_SCENE_SECONDS)
FIGURE_SIZE = 0.45


def play_needle_scenes(random: Random, duration_seconds: float) -> list[Scene]:
    """Scenes from 0 to the end: each third of the story has one needle, at any depth of it."""
    third = duration_seconds / len(NEEDLES)
    patterns = random.sample(NEEDLES, len(NEEDLES))
    starts = [
        float(round(random.uniform(index * third + SHORTEST_SCENE_SECONDS, (index + 1) * third - NEEDLE_SECONDS - 1)))
        for index in range(len(NEEDLES))
    ]
    actor = Actor(random.choice(SHAPES), random.choice(COLOURS), FIGURE_SIZE, has_eye=False)
    scenes: list[Scene] = []
    ends = [*starts, duration_seconds]
    for start, end, pattern in zip([0.0, *(start + NEEDLE_SECONDS for start in starts)], ends, [*patterns, None], strict=True):
        for bounds in pairwise(_cut(random, start, end)):
            scenes.append(_play_scene(random, *bounds, _draw_background(random, scenes), actor))
        if pattern:
            needle = Background(_draw_background(random, scenes).colour, pattern)
            scenes.append(_play_scene(random, end, end + NEEDLE_SECONDS, needle, actor))
    return scenes


def _cut(random: Random, start: float, end: float) -> list[float]:
    """Whole seconds at which scenes begin, and the end of the last."""
    num_scenes = max(1, round((end - start) / MEAN_SCENE_SECONDS))
    length = (end - start) / num_scenes
    inner = [float(round(start + (index + random.uniform(-0.3, 0.3)) * length)) for index in range(1, num_scenes)]
    return [start, *inner, end]


def _draw_background(random: Random, before: list[Scene]) -> Background:
    """A plain one in another colour than the scene before."""
    return Background(
        random.choice([each for each in BACKGROUND_COLOURS if not before or each != before[-1].background.colour])
    )


def _play_scene(random: Random, start: float, end: float, background: Background, actor: Actor) -> Scene:
    place = (start, random.uniform(0.3, 0.7), random.uniform(0.3, 0.7))
    stay, deed = Stay(actor, start, end, (place,)), Deed(actor, "stands still", start, end)
    return Scene(start, end, background, (), (stay,), (deed,))
