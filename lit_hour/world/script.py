"""A seed and a duration in, a `Story` out: what is seen when. No pictures and no questions yet.

A story has *regular* actors and backgrounds, which come again and again, and *guests*, which are there for one scene:
a guest can be asked about by its name alone, and is the needle in the haystack of a long video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Literal

from lit_hour.errors import WorldError

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
ACTIONS = (
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

Difficulty = Literal["easy", "full"]

SHORTEST_STORY_SECONDS = 4.0
EASY_SCENES = 3  # of an easy story, at most
NUM_REGULAR_BACKGROUNDS = 3  # the least that leaves a choice beside the previous background and the actor's colour


@dataclass(frozen=True)
class Actor:
    """A coloured shape. It looks the same in every scene of a story, and no other actor has its shape or its colour.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: diameter at its largest, as a share of the frame's height.
    """

    shape: str
    colour: str
    size: float


@dataclass(frozen=True)
class Scene:
    """A stretch of the story with one background and one actor that does one thing.

    Attributes:
        start_seconds: when the scene begins.
        end_seconds: when the next one begins, or the story ends.
        background: one of `COLOURS`, never the actor's, and not that of the scene before.
        actor: who is on screen.
        action: one of `ACTIONS`.
        center: where the actor is, from the left and from the top, as shares of the frame; a move replaces one of them.
    """

    start_seconds: float
    end_seconds: float
    background: str
    actor: Actor
    action: str
    center: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return self.start_seconds, self.end_seconds


@dataclass(frozen=True)
class Story:
    """Scenes that follow one another without a gap from 0 to `duration_seconds`."""

    seed: int
    duration_seconds: float
    scenes: tuple[Scene, ...]


def write_story(seed: int, duration_seconds: float, difficulty: Difficulty = "full") -> Story:
    """Draw a story at random; the same arguments give the same story.

    Args:
        difficulty: "easy" for at most `EASY_SCENES` scenes, whatever the duration.

    Raises:
        WorldError: the duration is not a number of seconds that one scene fits in.
    """
    if not math.isfinite(duration_seconds) or duration_seconds < SHORTEST_STORY_SECONDS:
        raise WorldError(
            f"a story of {duration_seconds} s cannot be told: its duration has to be at least "
            f"{SHORTEST_STORY_SECONDS:g} s, which is one scene"
        )
    random = Random(seed)
    boundaries = _draw_boundaries(random, duration_seconds, _num_scenes(random, duration_seconds, difficulty))
    actors = _draw_actors(random, num_scenes=len(boundaries) - 1)
    backgrounds = _draw_backgrounds(random, actors)
    scenes = (
        Scene(start, end, background, actor, _draw_action(random, actor), _draw_center(random))
        for (start, end), background, actor in zip(pairwise(boundaries), backgrounds, actors, strict=True)
    )
    return Story(seed, float(duration_seconds), tuple(scenes))


def _num_scenes(random: Random, duration_seconds: float, difficulty: Difficulty) -> int:
    """Scenes get longer more slowly than the story: about 14 s in three minutes, 42 s in an hour."""
    if difficulty == "easy":
        return min(random.randint(1, EASY_SCENES), int(duration_seconds / SHORTEST_STORY_SECONDS))
    mean_seconds = 14.0 * (duration_seconds / 180.0) ** 0.37
    return max(1, round(duration_seconds / mean_seconds))


def _draw_boundaries(random: Random, duration_seconds: float, num_scenes: int) -> list[float]:
    """Where scenes begin and end, in whole seconds but for the last."""
    ends = list(accumulate(random.uniform(0.6, 1.4) for _ in range(num_scenes)))
    inner = [float(round(end / ends[-1] * duration_seconds)) for end in ends[:-1]]
    return [0.0, *inner, float(duration_seconds)]


def _draw_actors(random: Random, num_scenes: int) -> list[Actor]:
    """The actor of each scene: two or three regulars, and one or two guests in a scene each."""
    shapes = random.sample(SHAPES, random.randint(3, 5))
    colours = random.sample(COLOURS, len(shapes))
    cast = [Actor(shape, colour, random.uniform(0.42, 0.5)) for shape, colour in zip(shapes, colours, strict=True)]
    num_regulars = max(2, len(cast) - 2)
    actors = random.choices(cast[:num_regulars], k=num_scenes)
    guests = cast[num_regulars:][:num_scenes]
    for index, guest in zip(random.sample(range(num_scenes), len(guests)), guests, strict=True):
        actors[index] = guest
    return actors


def _draw_backgrounds(random: Random, actors: list[Actor]) -> list[str]:
    """The background of each scene: three regular ones, and one to three that are there for a single scene."""
    colours = random.sample(COLOURS, len(COLOURS))
    regulars, guests = colours[:NUM_REGULAR_BACKGROUNDS], colours[NUM_REGULAR_BACKGROUNDS:]
    guest_of_scene: dict[int, str] = {}
    for guest in guests[: random.randint(1, len(guests))]:
        places = [i for i, actor in enumerate(actors) if i not in guest_of_scene and actor.colour != guest]
        if places:
            guest_of_scene[random.choice(places)] = guest
    backgrounds: list[str] = []
    for index, actor in enumerate(actors):
        taken = {actor.colour, *backgrounds[-1:]}
        regular = random.choice([colour for colour in regulars if colour not in taken])
        backgrounds.append(guest_of_scene.get(index, regular))
    return backgrounds


def _draw_action(random: Random, actor: Actor) -> str:
    """Something that can be seen: a circle that spins looks like one that stands still."""
    return random.choice([action for action in ACTIONS if (actor.shape, action) != ("circle", "spins")])


def _draw_center(random: Random) -> tuple[float, float]:
    """A place from which the largest actor, turned in any way, does not leave the frame."""
    return random.uniform(0.35, 0.65), random.uniform(0.35, 0.65)
