"""A `Story` in, what its narrators look up: when someone is first seen, which moments are quiet, what happens only once."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from lit_hour.synthetic.story import (
    ACTIONS,
    Actor,
    Background,
    Deed,
    Interval,
    Scene,
    Stay,
    Story,
    place_of,
)

GLIMPSE_SECONDS = 5.0  # how much of a first appearance is evidence of it
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Quiet:
    """A stretch of a scene in which nobody does anything; `stays` are those of everyone there, hidden or not."""

    interval: Interval
    scene: Scene
    stays: tuple[Stay, ...]

    def visible(self) -> tuple[Stay, ...]:
        """The stays of those who are not behind a prop."""
        return tuple(stay for stay in self.stays if not stay.is_hidden_at(self.interval[0]))

    def place(self, stay: Stay) -> str:
        """The name of the place where a figure stands."""
        return place_of(stay.point_at(self.interval[0]))


class Look:
    """One story, looked through once; each list is in the order of time."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @cached_property
    def alone(self) -> list[Deed]:
        """What figures do by themselves."""
        return [deed for deed in self.story.deeds if deed.action in ACTIONS]

    @cached_property
    def once(self) -> list[Deed]:
        """Deeds that nothing else in the story could be confused with: nobody does the same a second time."""
        counts = Counter(deed.clause for deed in self.story.deeds)
        return [deed for deed in self.story.deeds if counts[deed.clause] == 1]

    @cached_property
    def stays_of(self) -> dict[Actor, list[Stay]]:
        """Where each figure is, in the order of first coming in."""
        found: dict[Actor, list[Stay]] = defaultdict(list)
        for stay in self.story.stays:
            found[stay.actor].append(stay)
        return dict(found)

    @cached_property
    def scenes_of(self) -> dict[Background, list[Scene]]:
        """The scenes of each background."""
        found: dict[Background, list[Scene]] = defaultdict(list)
        for scene in self.story.scenes:
            found[scene.background].append(scene)
        return dict(found)

    @cached_property
    def newcomers(self) -> list[Actor]:
        """Figures that are first seen at a time at which no other is, in the order of that time."""
        counts = Counter(self.first_seen(actor) for actor in self.stays_of)
        alone = [actor for actor in self.stays_of if counts[self.first_seen(actor)] == 1]
        return sorted(alone, key=self.first_seen)

    def first_seen(self, actor: Actor) -> float:
        """When a figure first comes in, in seconds."""
        return self.stays_of[actor][0].start_seconds

    def glimpse(self, actor: Actor) -> Interval:
        """The beginning of its first stay."""
        start, end = self.stays_of[actor][0].interval
        return start, min(end, start + GLIMPSE_SECONDS)

    @cached_property
    def quiet(self) -> list[Quiet]:
        """Every stretch without a deed that begins on a whole second and lasts one at least."""
        found = []
        for scene in self.story.scenes:
            edges = [
                (scene.start_seconds, scene.start_seconds),
                *(deed.interval for deed in scene.deeds),
            ]
            edges.append((scene.end_seconds, scene.end_seconds))
            for (_, start), (end, _) in pairwise(edges):
                if end - start >= 1:
                    stays = tuple(stay for stay in scene.stays if stay.is_there_at(start))
                    found.append(Quiet((start, end), scene, stays))
        return found


def clock(seconds: float) -> str:
    """A time as a player shows it: 02:13, and from an hour on 1:02:13."""
    minutes, rest = divmod(int(seconds), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def length(seconds: float) -> str:
    """A duration in words: `1 minute 20 seconds`; above an hour without the seconds."""
    rest = round(seconds)
    parts = []
    for unit_seconds, name in ((HOUR, "hour"), (MINUTE, "minute"), (1, "second")):
        number, rest = divmod(rest, unit_seconds)
        if number and not (name == "second" and seconds >= HOUR):
            parts.append(f"{number} {name}" + "s" * (number > 1))
    return " ".join(parts) or "0 seconds"


def listed(words: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def intervals(things: list[Deed] | list[Scene] | list[Stay]) -> tuple[Interval, ...]:
    """When they are."""
    return tuple(thing.interval for thing in things)
