"""A `Story` in, what its narrators look up: when someone is first seen, which moments are quiet, what happens only once."""

from __future__ import annotations

from collections import Counter, defaultdict
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

ARRIVAL_SECONDS = 5.0  # how much of a first appearance is evidence of it
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class StillMoment:
    """A stretch of a scene in which nobody does anything; `stays` are those of everyone there, hidden or not."""

    interval: Interval
    scene: Scene
    appearances: tuple[Appearance, ...]

    def visible(self) -> tuple[Appearance, ...]:
        """The stays of those who are not behind a prop."""
        return tuple(stay for stay in self.appearances if not stay.is_hidden_at(self.interval[0]))

    def cell_name(self, stay: Appearance) -> str:
        """The name of the place where a figure stands."""
        return nearest_cell_name(stay.position_at(self.interval[0]))


class StoryIndex:
    """One story, looked through once; each list is in the order of time."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @cached_property
    def solo_actions(self) -> list[Action]:
        """What figures do by themselves."""
        return [deed for deed in self.story.actions if deed.verb in SOLO_VERBS]

    @cached_property
    def unique_actions(self) -> list[Action]:
        """Deeds that nothing else in the story could be confused with: nobody does the same a second time."""
        counts = Counter(deed.clause for deed in self.story.actions)
        return [deed for deed in self.story.actions if counts[deed.clause] == 1]

    @cached_property
    def appearances_by_actor(self) -> dict[Actor, list[Appearance]]:
        """Where each figure is, in the order of first coming in."""
        found: dict[Actor, list[Appearance]] = defaultdict(list)
        for stay in self.story.appearances:
            found[stay.actor].append(stay)
        return dict(found)

    @cached_property
    def scenes_by_background(self) -> dict[Background, list[Scene]]:
        """The scenes of each background."""
        found: dict[Background, list[Scene]] = defaultdict(list)
        for scene in self.story.scenes:
            found[scene.background].append(scene)
        return dict(found)

    @cached_property
    def actors_by_arrival(self) -> list[Actor]:
        """Figures that are first seen at a time at which no other is, in the order of that time."""
        counts = Counter(self.arrival_seconds(actor) for actor in self.appearances_by_actor)
        alone = [
            actor for actor in self.appearances_by_actor if counts[self.arrival_seconds(actor)] == 1
        ]
        return sorted(alone, key=self.arrival_seconds)

    def arrival_seconds(self, actor: Actor) -> float:
        """When a figure first comes in, in seconds."""
        return self.appearances_by_actor[actor][0].start_seconds

    def arrival_interval(self, actor: Actor) -> Interval:
        """The beginning of its first stay."""
        start, end = self.appearances_by_actor[actor][0].interval
        return start, min(end, start + ARRIVAL_SECONDS)

    @cached_property
    def still_moments(self) -> list[StillMoment]:
        """Every stretch without a deed that begins on a whole second and lasts one at least."""
        found = []
        for scene in self.story.scenes:
            edges = [
                (scene.start_seconds, scene.start_seconds),
                *(deed.interval for deed in scene.actions),
            ]
            edges.append((scene.end_seconds, scene.end_seconds))
            for (_, start), (end, _) in pairwise(edges):
                if end - start >= 1:
                    stays = tuple(stay for stay in scene.appearances if stay.is_present_at(start))
                    found.append(StillMoment((start, end), scene, stays))
        return found


def format_clock(seconds: float) -> str:
    """A time as a player shows it: 02:13, and from an hour on 1:02:13."""
    minutes, rest = divmod(int(seconds), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def format_duration(seconds: float) -> str:
    """A duration in words: `1 minute 20 seconds`; above an hour without the seconds."""
    rest = round(seconds)
    parts = []
    for unit_seconds, name in ((HOUR, "hour"), (MINUTE, "minute"), (1, "second")):
        number, rest = divmod(rest, unit_seconds)
        if number and not (name == "second" and seconds >= HOUR):
            parts.append(f"{number} {name}" + "s" * (number > 1))
    return " ".join(parts) or "0 seconds"


def join_items(words: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def intervals_of(things: list[Action] | list[Scene] | list[Appearance]) -> tuple[Interval, ...]:
    """When they are."""
    return tuple(thing.interval for thing in things)
