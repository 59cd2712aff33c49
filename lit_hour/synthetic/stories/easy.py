"""A seed in, the scenes of an easy story out: one to three, each with one figure that does one thing all the time.

A figure fills half of the frame, and backgrounds have the colours of figures: what a small model can learn in minutes.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.synthetic.story import COLORS, SHAPES, Action, Actor, Appearance, Background, Scene

EASY_SCENES = 3  # of an easy story, at most
EASY_ACTIONS = (
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
NUM_REGULAR_BACKGROUNDS = (
    3  # the least that leaves a choice beside the previous background and the actor's colour
)
NEAR, FAR = 0.25, 0.75  # where moves begin and end, as shares of the frame


def num_easy_scenes(random: Random, duration_seconds: float) -> int:
    """How many scenes a story has."""
    return min(random.randint(1, EASY_SCENES), int(duration_seconds / SHORTEST_SCENE_SECONDS))


def play_easy_scenes(random: Random, boundaries: list[float]) -> list[Scene]:
    """The scenes between these times."""
    actors = _draw_actors(random, num_scenes=len(boundaries) - 1)
    backgrounds = _draw_backgrounds(random, actors)
    return [
        _play_scene(random, start, end, background, actor)
        for (start, end), background, actor in zip(
            pairwise(boundaries), backgrounds, actors, strict=True
        )
    ]


def _play_scene(random: Random, start: float, end: float, background: str, actor: Actor) -> Scene:
    # a circle that spins looks like one that stands still
    action = random.choice(
        [action for action in EASY_ACTIONS if (actor.shape, action) != ("circle", "spins")]
    )
    x, y = (
        random.uniform(0.35, 0.65),
        random.uniform(0.35, 0.65),
    )  # no actor leaves the frame from here, however it turns
    path = {
        "moves left": ((start, FAR, y), (end, NEAR, y)),
        "moves right": ((start, NEAR, y), (end, FAR, y)),
        "moves up": ((start, x, FAR), (end, x, NEAR)),
        "moves down": ((start, x, NEAR), (end, x, FAR)),
    }.get(action, ((start, x, y),))
    return Scene(
        start,
        end,
        Background(background),
        (),
        (Appearance(actor, start, end, path),),
        (Action(actor, action, start, end),),
    )


def _draw_actors(random: Random, num_scenes: int) -> list[Actor]:
    """The actor of each scene: two or three regulars, and one or two guests in a scene each; no two share a colour."""
    shapes = random.sample(SHAPES, random.randint(3, 5))
    colours = random.sample(COLORS, len(shapes))
    cast = [
        Actor(shape, colour, random.uniform(0.42, 0.5), has_eye=False)
        for shape, colour in zip(shapes, colours, strict=True)
    ]
    num_regulars = max(2, len(cast) - 2)
    actors = random.choices(cast[:num_regulars], k=num_scenes)
    guests = cast[num_regulars:][:num_scenes]
    for index, guest in zip(random.sample(range(num_scenes), len(guests)), guests, strict=True):
        actors[index] = guest
    return actors


def _draw_backgrounds(random: Random, actors: list[Actor]) -> list[str]:
    """The background of each scene: three regular ones, and one to three that are there for a single scene."""
    colours = random.sample(COLORS, len(COLORS))
    regulars, guests = colours[:NUM_REGULAR_BACKGROUNDS], colours[NUM_REGULAR_BACKGROUNDS:]
    guest_of_scene: dict[int, str] = {}
    for guest in guests[: random.randint(1, len(guests))]:
        places = [
            i for i, actor in enumerate(actors) if i not in guest_of_scene and actor.color != guest
        ]
        if places:
            guest_of_scene[random.choice(places)] = guest
    backgrounds: list[str] = []
    for index, actor in enumerate(actors):
        taken = {actor.color, *backgrounds[-1:]}
        regular = random.choice([colour for colour in regulars if colour not in taken])
        backgrounds.append(guest_of_scene.get(index, regular))
    return backgrounds
