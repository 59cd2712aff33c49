"""Queries over a `Story` that the question generators share: appearances per figure, still moments.

`StoryIndex` computes each list once per story. The functions below it format durations and lists
the way questions and captions word them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from lit_hour.synthetic.story import (
    SOLO_VERBS,
    Action,
    Actor,
    Appearance,
    Background,
    Interval,
    Scene,
    Story,
    nearest_cell_name,
)

ARRIVAL_SECONDS = 5.0  # of the first appearance of a figure, used as evidence of its arrival
SHORTEST_STILL_SECONDS = 1
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class StillMoment:
    """An interval of a scene without any action.

    Attributes:
        appearances: those of every figure in the scene at that time, hidden or not.
    """

    interval: Interval
    scene: Scene
    appearances: tuple[Appearance, ...]

    def visible(self) -> tuple[Appearance, ...]:
        """Return the appearances of the figures that no prop hides."""
        start = self.interval[0]
        return tuple(item for item in self.appearances if not item.is_hidden_at(start))

    def cell_name(self, appearance: Appearance) -> str:
        """Return the name of the cell in which a figure stands."""
        return nearest_cell_name(appearance.position_at(self.interval[0]))


class StoryIndex:
    """Lookup tables over one story. Every list is in time order."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @cached_property
    def solo_actions(self) -> list[Action]:
        """The actions that a figure does by itself."""
        return [action for action in self.story.actions if action.verb in SOLO_VERBS]

    @cached_property
    def unique_actions(self) -> list[Action]:
        """Return actions with a clause (figure, verb, target) that occurs once in the story."""
        counts = Counter(action.clause for action in self.story.actions)
        return [action for action in self.story.actions if counts[action.clause] == 1]

    @cached_property
    def appearances_by_actor(self) -> dict[Actor, list[Appearance]]:
        """The appearances of each figure; figures in order of first appearance."""
        appearances: dict[Actor, list[Appearance]] = defaultdict(list)
        for appearance in self.story.appearances:
            appearances[appearance.actor].append(appearance)
        return dict(appearances)

    @cached_property
    def scenes_by_background(self) -> dict[Background, list[Scene]]:
        """The scenes of each background."""
        scenes: dict[Background, list[Scene]] = defaultdict(list)
        for scene in self.story.scenes:
            scenes[scene.background].append(scene)
        return dict(scenes)

    @cached_property
    def actors_by_arrival(self) -> list[Actor]:
        """The figures that do not share their arrival time with another, sorted by that time."""
        counts = Counter(self.arrival_seconds(actor) for actor in self.appearances_by_actor)
        single = [
            actor for actor in self.appearances_by_actor if counts[self.arrival_seconds(actor)] == 1
        ]
        return sorted(single, key=self.arrival_seconds)

    def arrival_seconds(self, actor: Actor) -> float:
        """Return the start of a figure's first appearance."""
        return self.appearances_by_actor[actor][0].start_seconds

    def arrival_interval(self, actor: Actor) -> Interval:
        """Return the beginning of a figure's first appearance, at most `ARRIVAL_SECONDS` long."""
        start, end = self.appearances_by_actor[actor][0].interval
        return start, min(end, start + ARRIVAL_SECONDS)

    @cached_property
    def still_moments(self) -> list[StillMoment]:
        """The intervals without an action that last at least `SHORTEST_STILL_SECONDS`."""
        moments = []
        for scene in self.story.scenes:
            edges = [
                (scene.start_seconds, scene.start_seconds),
                *(action.interval for action in scene.actions),
                (scene.end_seconds, scene.end_seconds),
            ]
            for (_, start), (end, _) in pairwise(edges):
                if end - start >= SHORTEST_STILL_SECONDS:
                    present = tuple(a for a in scene.appearances if a.is_present_at(start))
                    moments.append(StillMoment((start, end), scene, present))
        return moments


def format_duration(seconds: float) -> str:
    """Return a duration such as `1 minute 20 seconds`; from one hour on, without the seconds."""
    rest = round(seconds)
    parts = []
    for unit_seconds, unit in ((HOUR, "hour"), (MINUTE, "minute"), (1, "second")):
        number, rest = divmod(rest, unit_seconds)
        if number and not (unit == "second" and seconds >= HOUR):
            parts.append(f"{number} {unit}" + "s" * (number > 1))
    return " ".join(parts) or "0 seconds"


def join_items(items: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def intervals_of(items: Sequence[Action | Scene | Appearance]) -> tuple[Interval, ...]:
    """Return the interval of each item."""
    return tuple(item.interval for item in items)
