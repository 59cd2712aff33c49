"""Questions about time: what goes on at a moment, how long something is seen, how far apart and in which order."""

from __future__ import annotations

from itertools import combinations
from random import Random

from lit_hour.synthetic.questions.sampling import NUM_OPTIONS, Fact, Pool
from lit_hour.synthetic.story_index import (
    StoryIndex,
    format_clock,
    format_duration,
    intervals_of,
    join_items,
)

NUM_DRAWS = 8  # of facts about several figures at once, of which there are too many to list


def perceive_moments(look: StoryIndex, random: Random) -> list[Pool]:
    """Who does something in the middle of each deed."""
    return [
        [
            Fact(
                f"Which figure is doing something at {format_clock(sum(deed.interval) // 2)}?",
                deed.actor.name,
                (deed.interval,),
            )
            for deed in look.story.actions
        ]
    ]


def perceive_durations(look: StoryIndex, random: Random) -> list[Pool]:
    """For how long each background is seen, all its scenes together."""
    pool = []
    for background, scenes in look.scenes_by_background.items():
        seconds = sum(scene.end_seconds - scene.start_seconds for scene in scenes)
        question = f"For how long is the {background.name} background seen in all?"
        pool.append(Fact(question, format_duration(seconds), intervals_of(scenes), amount=seconds))
    return [pool]


def reason_about_times(look: StoryIndex, random: Random) -> list[Pool]:
    """How many figures came before each one."""
    pool = []
    for actor in look.actors_by_arrival:
        first = look.arrival_seconds(actor)
        earlier = [
            other for other in look.appearances_by_actor if look.arrival_seconds(other) < first
        ]
        question = f"How many other figures are seen before the {actor.name} is first seen?"
        evidence = tuple(sorted(look.arrival_interval(each) for each in (*earlier, actor)))
        pool.append(Fact(question, str(len(earlier)), evidence))
    return [pool]


def estimate_gaps(look: StoryIndex, random: Random) -> list[Pool]:
    """How long after one figure another is first seen."""
    pool = []
    for earlier, later in combinations(look.actors_by_arrival, 2):
        seconds = look.arrival_seconds(later) - look.arrival_seconds(earlier)
        question = f"How much time passes from when the {earlier.name} is first seen until the {later.name} is first seen?"
        pool.append(
            Fact(
                question,
                format_duration(seconds),
                (look.arrival_interval(earlier), look.arrival_interval(later)),
                amount=seconds,
            )
        )
    return [pool]


def order_figures(look: StoryIndex, random: Random) -> list[Pool]:
    """Which of several figures is seen first; they are named in random order."""
    num_named = min(NUM_OPTIONS, len(look.actors_by_arrival))
    if num_named < 2:
        return []
    pool = []
    draws = [random.sample(look.actors_by_arrival, num_named) for _ in range(NUM_DRAWS)]
    for named in {frozenset(draw): draw for draw in draws}.values():
        first = min(named, key=look.arrival_seconds)
        names = tuple(actor.name for actor in named)
        question = f"Which is seen first: {join_items([f'the {name}' for name in names], 'or')}?"
        evidence = tuple(sorted(look.arrival_interval(actor) for actor in named))
        pool.append(Fact(question, first.name, evidence, options=names))
    return [pool]
