"""Questions about positions: where a figure stands, and how two positions relate."""

from __future__ import annotations

from itertools import permutations
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story import Actor, Point
from lit_hour.synthetic.story_index import StoryIndex
from lit_hour.text.timestamp import format_timestamp


def perceive_positions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: where a visible figure stands at a still moment."""
    return [
        [
            Fact(
                f"Where is the {appearance.actor.name} at {format_timestamp(moment.interval[0])}?",
                moment.cell_name(appearance),
                (moment.interval,),
            )
            for moment in index.still_moments
            for appearance in moment.visible()
        ]
    ]


def reason_about_positions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: how the first positions of two figures in one row or column relate."""
    first = {actor: _first_position(index, actor) for actor in index.appearances_by_actor}
    pool = []
    for actor, other in permutations(first, 2):
        (seconds, (x, y)), (other_seconds, (other_x, other_y)) = first[actor], first[other]
        if (x == other_x) == (y == other_y):
            continue
        if y == other_y:
            answer = "farther left" if x < other_x else "farther right"
        else:
            answer = "higher" if y < other_y else "lower"
        question = (
            f"Where does the {actor.name} first stand,"
            f" compared with where the {other.name} first stands?"
        )
        evidence = [
            (index.arrival_seconds(actor), seconds + 1),
            (index.arrival_seconds(other), other_seconds + 1),
        ]
        pool.append(Fact(question, answer, tuple(sorted(evidence))))
    return [pool]


def _first_position(index: StoryIndex, actor: Actor) -> tuple[float, Point]:
    """Return when and where a figure first stands: the first point of its path in the frame."""
    path = index.appearances_by_actor[actor][0].path
    seconds, x, y = next(point for point in path if 0 <= point[1] <= 1 and 0 <= point[2] <= 1)
    return seconds, (x, y)
