"""Questions about places: where a figure is at a moment, and how two places that were seen far apart lie to each other."""

from __future__ import annotations

from itertools import permutations
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story import Actor, Point
from lit_hour.synthetic.story_index import StoryIndex, format_clock


def perceive_places(look: StoryIndex, random: Random) -> list[Pool]:
    """Where each figure stands that can be seen while nothing happens."""
    return [
        [
            Fact(
                f"Where is the {stay.actor.name} at {format_clock(quiet.interval[0])}?",
                f"{quiet.cell_name(stay)}",
                (quiet.interval,),
            )
            for quiet in look.still_moments
            for stay in quiet.visible()
        ]
    ]


def reason_about_places(look: StoryIndex, random: Random) -> list[Pool]:
    """How the first places of two figures lie to each other, if they are in one row or one column."""
    first = {actor: _first_stand(look, actor) for actor in look.appearances_by_actor}
    pool = []
    for actor, other in permutations(first, 2):
        (seconds, (x, y)), (other_seconds, (other_x, other_y)) = first[actor], first[other]
        if (x == other_x) == (y == other_y):
            continue
        answer = (
            ("farther left" if x < other_x else "farther right")
            if y == other_y
            else "higher"
            if y < other_y
            else "lower"
        )
        question = f"Where does the {actor.name} first stand, compared with where the {other.name} first stands?"
        evidence = (
            (look.arrival_seconds(actor), seconds + 1),
            (look.arrival_seconds(other), other_seconds + 1),
        )
        pool.append(Fact(question, answer, tuple(sorted(evidence))))
    return [pool]


def _first_stand(look: StoryIndex, actor: Actor) -> tuple[float, Point]:
    """When and where a figure first stands: from the start, or where its way into the frame ends."""
    path = look.appearances_by_actor[actor][0].path
    seconds, x, y = next(step for step in path if 0 <= step[1] <= 1 and 0 <= step[2] <= 1)
    return seconds, (x, y)
