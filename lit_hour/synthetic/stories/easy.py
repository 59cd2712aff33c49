"""Scenes of an easy story: one to three, each with one figure that does one thing all the time.

A figure fills half of the frame, and backgrounds have the colors of figures. A small model learns
the questions about such stories within minutes.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.synthetic.story import (
    COLORS,
    SHAPES,
    Action,
    Actor,
    Appearance,
    Background,
    Scene,
)

MAX_SCENES = 3
EASY_VERBS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "spins",
    "grows",
    "shrinks",
    "blinks",
    "stands still",
)
SHORTEST_SCENE_SECONDS = 4.0
# one more than the previous background and the color of the actor, which are both excluded
NUM_REGULAR_BACKGROUNDS = 3
NEAR, FAR = 0.25, 0.75  # where moves begin and end, as fractions of the frame


def draw_num_scenes(random: Random, duration_seconds: float) -> int:
    """Draw the number of scenes of a story."""
    return min(random.randint(1, MAX_SCENES), int(duration_seconds / SHORTEST_SCENE_SECONDS))


def generate_easy_scenes(random: Random, boundaries: list[float]) -> list[Scene]:
    """Generate the scenes between consecutive boundaries, in seconds."""
    actors = _draw_actors(random, num_scenes=len(boundaries) - 1)
    backgrounds = _draw_backgrounds(random, actors)
    return [
        _generate_scene(random, start, end, background, actor)
        for (start, end), background, actor in zip(
            pairwise(boundaries), backgrounds, actors, strict=True
        )
    ]


def _generate_scene(
    random: Random, start: float, end: float, background: str, actor: Actor
) -> Scene:
    # a circle without an eye looks the same whether it spins or stands still
    verbs = [verb for verb in EASY_VERBS if (actor.shape, verb) != ("circle", "spins")]
    verb = random.choice(verbs)
    x, y = random.uniform(0.35, 0.65), random.uniform(0.35, 0.65)  # inside the frame at any angle
    path = {
        "moves left": ((start, FAR, y), (end, NEAR, y)),
        "moves right": ((start, NEAR, y), (end, FAR, y)),
        "moves up": ((start, x, FAR), (end, x, NEAR)),
        "moves down": ((start, x, NEAR), (end, x, FAR)),
    }.get(verb, ((start, x, y),))
    appearance = Appearance(actor, start, end, path)
    action = Action(actor, verb, start, end)
    return Scene(start, end, Background(background), (), (appearance,), (action,))


def _draw_actors(random: Random, num_scenes: int) -> list[Actor]:
    """Draw the figure of each scene: regulars, and one or two guests in one scene each.

    No two figures share a shape or a color.
    """
    shapes = random.sample(SHAPES, random.randint(3, 5))
    colors = random.sample(COLORS, len(shapes))
    cast = [
        Actor(shape, color, random.uniform(0.42, 0.5), has_eye=False)
        for shape, color in zip(shapes, colors, strict=True)
    ]
    num_regulars = max(2, len(cast) - 2)
    actors = random.choices(cast[:num_regulars], k=num_scenes)
    guests = cast[num_regulars:][:num_scenes]
    for index, guest in zip(random.sample(range(num_scenes), len(guests)), guests, strict=True):
        actors[index] = guest
    return actors


def _draw_backgrounds(random: Random, actors: list[Actor]) -> list[str]:
    """Draw the background color of each scene: three regulars, and guests in one scene each."""
    colors = random.sample(COLORS, len(COLORS))
    regulars, guests = colors[:NUM_REGULAR_BACKGROUNDS], colors[NUM_REGULAR_BACKGROUNDS:]
    guest_of_scene: dict[int, str] = {}
    for guest in guests[: random.randint(1, len(guests))]:
        possible = [
            index
            for index, actor in enumerate(actors)
            if index not in guest_of_scene and actor.color != guest
        ]
        if possible:
            guest_of_scene[random.choice(possible)] = guest
    backgrounds: list[str] = []
    for index, actor in enumerate(actors):
        excluded = {actor.color, *backgrounds[-1:]}
        regular = random.choice([color for color in regulars if color not in excluded])
        backgrounds.append(guest_of_scene.get(index, regular))
    return backgrounds
