"""A seed and a duration in, a `Story` out: what is seen when. No pictures and no questions yet.

A full story has *regular* figures and backgrounds, which come again and again, and *guests*, which are there for one scene:
a guest can be asked about by its name alone, and is the needle in the haystack of a long video. Nothing in the drawing
prefers one colour, shape or background to another, so that no name tells what its bearer does.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise, permutations, product
from random import Random

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.scene_simulator import Pace, simulate_scene
from lit_hour.synthetic.stories.easy import (
    SHORTEST_SCENE_SECONDS,
    num_easy_scenes,
    play_easy_scenes,
)
from lit_hour.synthetic.stories.needle import NEEDLES, play_needle_scenes, shortest_needle_story
from lit_hour.synthetic.story import (
    BACKGROUND_COLORS,
    CELL_NAMES,
    COLORS,
    LARGE_SIZE,
    PATTERNS,
    PROPS,
    SHAPES,
    SMALL_SIZE,
    Actor,
    Background,
    Difficulty,
    Prop,
    Scene,
    Story,
)

SHORTEST_FULL_STORY_SECONDS = 10.0
NUM_ACTORS = 10
ACTIONS_PER_MINUTE = 10.0
NEEDLE_SECONDS = 3.0
MOST_ACTORS = len(SHAPES) * len(COLORS)
SHARE_OF_REGULARS = 0.4  # of the figures of a full story
NUM_REGULAR_BACKGROUNDS, NUM_GUEST_BACKGROUNDS = 4, 4


def generate_story(
    seed: int,
    duration_seconds: float,
    difficulty: Difficulty = "full",
    num_actors: int = NUM_ACTORS,
    actions_per_minute: float = ACTIONS_PER_MINUTE,
    num_needles: int = len(NEEDLES),
    needle_seconds: float = NEEDLE_SECONDS,
) -> Story:
    """Draw a story at random; the same arguments give the same story.

    Args:
        difficulty: "easy" for one to three scenes with one large figure each, whatever the duration; "needles" for a few
            short ones among long ones.
        num_actors: figures to choose from in a full story.
        actions_per_minute: deeds in a minute of a full story, on average.
        num_needles: short scenes of a needle story.
        needle_seconds: how long each needle lasts.

    Raises:
        SyntheticDataError: the duration is not a number of seconds that one scene fits in, or there are more figures than pairs
            of a shape and a colour.
    """
    shortest, reason = {
        "easy": (SHORTEST_SCENE_SECONDS, "which is one scene"),
        "needles": (
            shortest_needle_story(num_needles, needle_seconds),
            "for synthetic.num_needles of synthetic.needle_seconds",
        ),
        "full": (SHORTEST_FULL_STORY_SECONDS, "which is one scene"),
    }[difficulty]
    if not math.isfinite(duration_seconds) or duration_seconds < shortest:
        raise SyntheticDataError(
            f"a story of {duration_seconds} s cannot be told: its duration has to be at least {shortest:g} s, {reason}"
        )
    if not 1 <= num_actors <= MOST_ACTORS:
        raise SyntheticDataError(
            f"a story of {num_actors} figures cannot be told: synthetic.num_actors has to be 1 to {MOST_ACTORS}, as there are"
            f" {len(SHAPES)} shapes in {len(COLORS)} colours and no two figures may look alike"
        )
    random = Random(seed)
    if difficulty == "easy":
        boundaries = _draw_boundaries(
            random, duration_seconds, num_easy_scenes(random, duration_seconds)
        )
        scenes = play_easy_scenes(random, boundaries)
    elif difficulty == "needles":
        scenes = play_needle_scenes(random, duration_seconds, num_needles, needle_seconds)
    else:
        scenes = _play_full_scenes(
            random, duration_seconds, num_actors, Pace.of(actions_per_minute)
        )
    return Story(seed, float(duration_seconds), tuple(scenes), difficulty)


def _play_full_scenes(
    random: Random, duration_seconds: float, num_actors: int, pace: Pace
) -> list[Scene]:
    boundaries = _draw_boundaries(random, duration_seconds, _num_scenes(duration_seconds, pace))
    num_scenes = len(boundaries) - 1
    casts = _draw_casts(random, num_scenes, num_actors)
    backgrounds = _draw_backgrounds(random, num_scenes)
    props = {background: _draw_props(random) for background in dict.fromkeys(backgrounds)}
    seen: set[Actor] = set()
    scenes = []
    for (start, end), background, cast in zip(
        pairwise(boundaries), backgrounds, casts, strict=True
    ):
        scene = simulate_scene(
            random, (start, end), background, props[background], cast, seen, pace
        )
        seen.update(scene.actors)
        scenes.append(scene)
    return scenes


def _num_scenes(duration_seconds: float, pace: Pace) -> int:
    """Scenes get longer more slowly than the story: about 20 s in three minutes, 60 s in an hour, 140 s in ten."""
    mean_seconds = max(20.0 * (duration_seconds / 180.0) ** 0.37, 3 * pace.slot_seconds)
    return max(1, round(duration_seconds / mean_seconds))


def _draw_boundaries(random: Random, duration_seconds: float, num_scenes: int) -> list[float]:
    """Where scenes begin and end, in whole seconds but for the last."""
    ends = list(accumulate(random.uniform(0.6, 1.4) for _ in range(num_scenes)))
    inner = [float(round(end / ends[-1] * duration_seconds)) for end in ends[:-1]]
    return [0.0, *inner, float(duration_seconds)]


def _draw_casts(random: Random, num_scenes: int, num_actors: int) -> list[list[Actor]]:
    """Who is in each scene: one to three figures, a guest among them in at most two of three scenes."""
    pairs = random.sample(list(product(SHAPES, COLORS)), num_actors)
    figures = [
        Actor(shape, colour, random.choice((SMALL_SIZE, LARGE_SIZE))) for shape, colour in pairs
    ]
    num_regulars = math.ceil(num_actors * SHARE_OF_REGULARS)
    regulars, guests = figures[:num_regulars], figures[num_regulars:]
    places = random.sample(range(num_scenes), min(len(guests), 2 * num_scenes // 3))
    guest_of_scene = dict(zip(places, guests, strict=False))
    casts = []
    for index in range(num_scenes):
        guest = [guest_of_scene[index]] if index in guest_of_scene else []
        num_in_scene = random.choices((1, 2, 3), weights=(2, 5, 4))[0]
        others = random.sample(regulars, min(len(regulars), num_in_scene - len(guest)))
        casts.append(random.sample(guest + others, len(guest + others)))
    return casts


def _draw_backgrounds(random: Random, num_scenes: int) -> list[Background]:
    """The background of each scene, never that of the one before, and last not the first one: regulars, and some guests."""
    drawn = [Background(*pair) for pair in product(BACKGROUND_COLORS, PATTERNS)]
    drawn = random.sample(drawn, NUM_REGULAR_BACKGROUNDS + NUM_GUEST_BACKGROUNDS)
    regulars, guests = drawn[:NUM_REGULAR_BACKGROUNDS], drawn[NUM_REGULAR_BACKGROUNDS:]
    places = random.sample(range(num_scenes), min(len(guests), num_scenes // 2))
    guest_of_scene = dict(zip(places, guests, strict=False))
    backgrounds: list[Background] = []
    for index in range(num_scenes):
        taken = (
            backgrounds[-1:] if index < num_scenes - 1 else [*backgrounds[:1], *backgrounds[-1:]]
        )
        regular = random.choice([background for background in regulars if background not in taken])
        backgrounds.append(guest_of_scene.get(index, regular))
    return backgrounds


def _draw_props(random: Random) -> tuple[Prop, ...]:
    """Two things that do not stand side by side, so that there is a way between them."""
    apart = [
        (one, other) for one, other in permutations(CELL_NAMES, 2) if math.dist(one, other) > 1
    ]
    return tuple(
        Prop(kind, cell)
        for kind, cell in zip(random.sample(PROPS, 2), random.choice(apart), strict=True)
    )
