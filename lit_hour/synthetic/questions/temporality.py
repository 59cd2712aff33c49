"""Questions about time: what happens when, durations, gaps and the order of arrivals."""

from __future__ import annotations

from itertools import combinations
from random import Random

from lit_hour.synthetic.questions.sampling import NUM_OPTIONS, Fact, Pool
from lit_hour.synthetic.story_index import (
    StoryIndex,
    format_duration,
    intervals_of,
    join_items,
)
from lit_hour.text.timestamp import format_timestamp

NUM_DRAWS = 8  # of facts about several figures, which are too many to enumerate


def perceive_moments(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which figure acts in the middle of an action."""
    return [
        [
            Fact(
                f"Which figure is doing something"
                f" at {format_timestamp(sum(action.interval) // 2)}?",
                action.actor.name,
                (action.interval,),
            )
            for action in index.story.actions
        ]
    ]


def perceive_durations(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: the total duration of each background."""
    pool = []
    for background, scenes in index.scenes_by_background.items():
        seconds = sum(scene.end_seconds - scene.start_seconds for scene in scenes)
        question = f"For how long is the {background.name} background seen in all?"
        answer = format_duration(seconds)
        pool.append(Fact(question, answer, intervals_of(scenes), amount=seconds))
    return [pool]


def reason_about_times(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: how many figures arrive before each one."""
    pool = []
    for actor in index.actors_by_arrival:
        arrival = index.arrival_seconds(actor)
        earlier = [
            other for other in index.appearances_by_actor if index.arrival_seconds(other) < arrival
        ]
        question = f"How many other figures are seen before the {actor.name} is first seen?"
        evidence = sorted(index.arrival_interval(item) for item in (*earlier, actor))
        pool.append(Fact(question, str(len(earlier)), tuple(evidence)))
    return [pool]


def estimate_gaps(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: how much time passes between the arrivals of two figures."""
    pool = []
    for earlier, later in combinations(index.actors_by_arrival, 2):
        seconds = index.arrival_seconds(later) - index.arrival_seconds(earlier)
        question = (
            f"How much time passes from when the {earlier.name} is first seen"
            f" until the {later.name} is first seen?"
        )
        evidence = index.arrival_interval(earlier), index.arrival_interval(later)
        pool.append(Fact(question, format_duration(seconds), evidence, amount=seconds))
    return [pool]


def order_arrivals(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which of several figures arrives first, named in random order."""
    num_named = min(NUM_OPTIONS, len(index.actors_by_arrival))
    if num_named < 2:
        return []
    pool = []
    draws = [random.sample(index.actors_by_arrival, num_named) for _ in range(NUM_DRAWS)]
    for actors in {frozenset(draw): draw for draw in draws}.values():
        first = min(actors, key=index.arrival_seconds)
        names = tuple(actor.name for actor in actors)
        question = f"Which is seen first: {join_items([f'the {name}' for name in names], 'or')}?"
        evidence = sorted(index.arrival_interval(actor) for actor in actors)
        pool.append(Fact(question, first.name, tuple(evidence), options=names))
    return [pool]
