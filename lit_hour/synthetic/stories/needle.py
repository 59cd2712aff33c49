"""Scenes of a needle story: long ones on plain backgrounds, and a few that last seconds.

The short scenes are the needles in the haystack: each has a patterned background, and no two share
a pattern. One large figure is present all the time.
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

NEEDLE_PATTERNS = PATTERNS[1:]  # all but plain; one needle of each
MEAN_SCENE_SECONDS = 40.0
SHORTEST_SCENE_SECONDS = 5.0  # between two needles, before the first and after the last
ACTOR_SIZE = 0.45


def shortest_needle_story(num_needles: int, needle_seconds: float) -> float:
    """Return the least duration of such a story, in seconds."""
    return num_needles * (needle_seconds + 2 * SHORTEST_SCENE_SECONDS)


def generate_needle_scenes(
    random: Random, duration_seconds: float, num_needles: int, needle_seconds: float
) -> list[Scene]:
    """Generate all scenes: the story is cut into equal parts, with a needle anywhere in each."""
    part_seconds = duration_seconds / num_needles
    patterns = random.sample(NEEDLE_PATTERNS, num_needles)
    starts = []
    for index in range(num_needles):
        earliest = index * part_seconds + SHORTEST_SCENE_SECONDS
        latest = (index + 1) * part_seconds - needle_seconds - 1
        starts.append(float(round(random.uniform(earliest, latest))))
    actor = Actor(random.choice(SHAPES), random.choice(COLORS), ACTOR_SIZE, has_eye=False)
    scenes: list[Scene] = []
    gap_start = 0.0
    for needle_start, pattern in zip(starts, patterns, strict=True):
        _append_plain_scenes(random, scenes, gap_start, needle_start, actor)
        gap_start = needle_start + needle_seconds
        needle = Background(_draw_background_color(random, scenes), pattern)
        scenes.append(_generate_scene(random, needle_start, gap_start, needle, actor))
    _append_plain_scenes(random, scenes, gap_start, duration_seconds, actor)
    return scenes


def _append_plain_scenes(
    random: Random, scenes: list[Scene], start: float, end: float, actor: Actor
) -> None:
    for scene_start, scene_end in pairwise(_draw_boundaries(random, start, end)):
        background = Background(_draw_background_color(random, scenes))
        scenes.append(_generate_scene(random, scene_start, scene_end, background, actor))


def _draw_boundaries(random: Random, start: float, end: float) -> list[float]:
    """Draw where the scenes between two needles begin and end: whole seconds, except for `end`."""
    num_scenes = max(1, round((end - start) / MEAN_SCENE_SECONDS))
    scene_seconds = (end - start) / num_scenes
    inner = [
        float(round(start + (index + random.uniform(-0.3, 0.3)) * scene_seconds))
        for index in range(1, num_scenes)
    ]
    return [start, *inner, end]


def _draw_background_color(random: Random, scenes: list[Scene]) -> str:
    """Draw a color that differs from the last scene's."""
    last = scenes[-1].background.color if scenes else None
    return random.choice([color for color in BACKGROUND_COLORS if color != last])


def _generate_scene(
    random: Random, start: float, end: float, background: Background, actor: Actor
) -> Scene:
    position = (start, random.uniform(0.3, 0.7), random.uniform(0.3, 0.7))
    appearance = Appearance(actor, start, end, (position,))
    action = Action(actor, "stands still", start, end)
    return Scene(start, end, background, (), (appearance,), (action,))
