"""Generate a `Story` at random from a seed and a duration: `generate_story`.

A full story has regular figures and backgrounds, which recur, and guests, which are present in a
single scene. A question can identify a guest by its name alone, so guests are the needles in the
haystack of a long video. Shapes, colors and backgrounds are drawn uniformly and independently of
the actions, so a name says nothing about what its figure does.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise, permutations, product
from random import Random
from typing import TypeVar

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.scene_simulator import Pace, simulate_scene
from lit_hour.synthetic.stories.easy import (
    SHORTEST_SCENE_SECONDS,
    draw_num_scenes,
    generate_easy_scenes,
)
from lit_hour.synthetic.stories.needle import (
    NEEDLE_PATTERNS,
    generate_needle_scenes,
    shortest_needle_story,
)
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
MAX_ACTORS = len(SHAPES) * len(COLORS)
REGULAR_ACTOR_SHARE = 0.4  # of the figures of a full story
NUM_REGULAR_BACKGROUNDS, NUM_GUEST_BACKGROUNDS = 4, 4

Guest = TypeVar("Guest")


def generate_story(
    seed: int,
    duration_seconds: float,
    difficulty: Difficulty = "full",
    num_actors: int = NUM_ACTORS,
    actions_per_minute: float = ACTIONS_PER_MINUTE,
    num_needles: int = len(NEEDLE_PATTERNS),
    needle_seconds: float = NEEDLE_SECONDS,
) -> Story:
    """Generate a story at random; the same arguments give the same story.

    Args:
        seed: of every choice.
        duration_seconds: of the story.
        difficulty: "easy" for one to three scenes with one large figure each, whatever the
            duration; "needles" for a few short scenes between long ones; "full" for everything.
        num_actors: figures of a full story.
        actions_per_minute: mean rate of the actions of a full story.
        num_needles: short scenes of a needle story.
        needle_seconds: duration of each of them.

    Raises:
        SyntheticDataError: the duration is not a finite number of seconds that one scene fits in,
            or there are more figures than pairs of a shape and a color.
    """
    shortest, reason = {
        "easy": (SHORTEST_SCENE_SECONDS, "the duration of one scene"),
        "needles": (
            shortest_needle_story(num_needles, needle_seconds),
            "for synthetic.num_needles of synthetic.needle_seconds",
        ),
        "full": (SHORTEST_FULL_STORY_SECONDS, "the duration of one scene"),
    }[difficulty]
    if not math.isfinite(duration_seconds) or duration_seconds < shortest:
        raise SyntheticDataError(
            f"Cannot generate a story of {duration_seconds} s."
            f" Its duration must be at least {shortest:g} s, {reason}."
        )
    if not 1 <= num_actors <= MAX_ACTORS:
        raise SyntheticDataError(
            f"Cannot generate a story of {num_actors} figures. synthetic.num_actors must be 1 to"
            f" {MAX_ACTORS}, because {len(SHAPES)} shapes in {len(COLORS)} colors give no more"
            " different figures."
        )
    random = Random(seed)
    if difficulty == "easy":
        num_scenes = draw_num_scenes(random, duration_seconds)
        scenes = generate_easy_scenes(
            random, _draw_boundaries(random, duration_seconds, num_scenes)
        )
    elif difficulty == "needles":
        scenes = generate_needle_scenes(random, duration_seconds, num_needles, needle_seconds)
    else:
        pace = Pace.of(actions_per_minute)
        scenes = _generate_full_scenes(random, duration_seconds, num_actors, pace)
    return Story(seed, float(duration_seconds), tuple(scenes), difficulty)


def _generate_full_scenes(
    random: Random, duration_seconds: float, num_actors: int, pace: Pace
) -> list[Scene]:
    num_scenes = _num_scenes(duration_seconds, pace)
    boundaries = _draw_boundaries(random, duration_seconds, num_scenes)
    casts = _draw_casts(random, num_scenes, num_actors)
    backgrounds = _draw_backgrounds(random, num_scenes)
    props = {background: _draw_props(random) for background in dict.fromkeys(backgrounds)}
    known: set[Actor] = set()
    scenes = []
    for interval, background, cast in zip(pairwise(boundaries), backgrounds, casts, strict=True):
        scene = simulate_scene(random, interval, background, props[background], cast, known, pace)
        known.update(scene.actors)
        scenes.append(scene)
    return scenes


def _num_scenes(duration_seconds: float, pace: Pace) -> int:
    """Return the number of scenes.

    Their mean duration grows more slowly than the story's: it is about 20 s in a story of
    three minutes, 60 s in one hour and 140 s in ten hours.
    """
    mean_seconds = max(20.0 * (duration_seconds / 180.0) ** 0.37, 3 * pace.slot_seconds)
    return max(1, round(duration_seconds / mean_seconds))


def _draw_boundaries(random: Random, duration_seconds: float, num_scenes: int) -> list[float]:
    """Draw where scenes begin and end: whole seconds, except for the end of the last one."""
    ends = list(accumulate(random.uniform(0.6, 1.4) for _ in range(num_scenes)))
    inner = [float(round(end / ends[-1] * duration_seconds)) for end in ends[:-1]]
    return [0.0, *inner, float(duration_seconds)]


def _draw_casts(random: Random, num_scenes: int, num_actors: int) -> list[list[Actor]]:
    """Draw the one to three figures of each scene; at most two scenes of three have a guest."""
    pairs = random.sample(list(product(SHAPES, COLORS)), num_actors)
    actors = [
        Actor(shape, color, random.choice((SMALL_SIZE, LARGE_SIZE))) for shape, color in pairs
    ]
    num_regulars = math.ceil(num_actors * REGULAR_ACTOR_SHARE)
    regulars, guests = actors[:num_regulars], actors[num_regulars:]
    guest_of_scene = _assign_guests(random, num_scenes, guests, 2 * num_scenes // 3)
    casts = []
    for index in range(num_scenes):
        guest = [guest_of_scene[index]] if index in guest_of_scene else []
        num_in_scene = random.choices((1, 2, 3), weights=(2, 5, 4))[0]
        others = random.sample(regulars, min(len(regulars), num_in_scene - len(guest)))
        casts.append(random.sample(guest + others, len(guest + others)))
    return casts


def _draw_backgrounds(random: Random, num_scenes: int) -> list[Background]:
    """Draw the background of each scene; neighboring scenes differ, and the first and the last."""
    drawn = [Background(*pair) for pair in product(BACKGROUND_COLORS, PATTERNS)]
    drawn = random.sample(drawn, NUM_REGULAR_BACKGROUNDS + NUM_GUEST_BACKGROUNDS)
    regulars, guests = drawn[:NUM_REGULAR_BACKGROUNDS], drawn[NUM_REGULAR_BACKGROUNDS:]
    guest_of_scene = _assign_guests(random, num_scenes, guests, num_scenes // 2)
    backgrounds: list[Background] = []
    for index in range(num_scenes):
        excluded = backgrounds[-1:]
        if index == num_scenes - 1:
            excluded = [*backgrounds[:1], *excluded]
        regular = random.choice([item for item in regulars if item not in excluded])
        backgrounds.append(guest_of_scene.get(index, regular))
    return backgrounds


def _assign_guests(
    random: Random, num_scenes: int, guests: list[Guest], max_guests: int
) -> dict[int, Guest]:
    """Draw a scene of its own for each guest, as far as `max_guests` allows."""
    scene_indices = random.sample(range(num_scenes), min(len(guests), max_guests))
    return dict(zip(scene_indices, guests, strict=False))


def _draw_props(random: Random) -> tuple[Prop, ...]:
    """Draw two props in cells that are not neighbors in a row or column, so that a way is free."""
    apart = [pair for pair in permutations(CELL_NAMES, 2) if math.dist(*pair) > 1]
    kinds = random.sample(PROPS, 2)
    cells = random.choice(apart)
    return tuple(Prop(kind, cell) for kind, cell in zip(kinds, cells, strict=True))
