"""Where the figures of a scene are at one moment: who is there, who is hidden, what is free, which ways are clear."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lit_hour.world.story import PLACES, SIDES, Actor, Cell, Interval, Point, Prop, Stay, middle_of

LEAST_DISTANCE = 0.29  # of a path from the middle of a figure or a prop that it passes: two large figures do not touch
PAST_THE_EDGE = 0.2  # how far outside the frame a figure is when it begins to come in


@dataclass
class Presence:
    """A stay that is not over yet: since when, in which of the places, and the path up to now."""

    start_seconds: float
    cell: Cell
    path: list[tuple[float, float, float]]
    hidden: list[Interval] = field(default_factory=list)
    hidden_since: float | None = None


class Floor:
    """Nine places, some of them with a prop, and the figures that are present."""

    def __init__(self, props: tuple[Prop, ...]) -> None:
        self.kind_of_cell = {prop.cell: prop.kind for prop in props}
        self.present: dict[Actor, Presence] = {}
        self.stays: list[Stay] = []

    @property
    def visible(self) -> list[Actor]:
        """Who is present and not behind a prop."""
        return [actor for actor, presence in self.present.items() if presence.hidden_since is None]

    @property
    def hidden(self) -> list[Actor]:
        """Who is behind a prop."""
        return [actor for actor, presence in self.present.items() if presence.hidden_since is not None]

    @property
    def free_cells(self) -> list[Cell]:
        """The places with neither a figure nor a prop."""
        taken = {presence.cell for presence in self.present.values()} | self.kind_of_cell.keys()
        return [cell for cell in PLACES if cell not in taken]

    def point(self, actor: Actor) -> Point:
        """Where a figure stands."""
        return middle_of(self.present[actor].cell)

    def walk(self, actor: Actor, start: float, end: float, cell: Cell) -> None:
        """Let it go straight to a place."""
        self.follow(actor, [(start, *self.point(actor)), (end, *middle_of(cell))], cell)

    def follow(self, actor: Actor, path: list[tuple[float, float, float]], cell: Cell) -> None:
        """Let it take a path that ends in a place."""
        self.present[actor].path += path
        self.present[actor].cell = cell

    def hide(self, actor: Actor, seconds: float) -> None:
        """From now on it is behind the prop of its place."""
        self.present[actor].hidden_since = seconds

    def reveal(self, actor: Actor, seconds: float) -> None:
        """It is no longer behind a prop."""
        presence = self.present[actor]
        if presence.hidden_since is not None:
            presence.hidden.append((presence.hidden_since, seconds))
            presence.hidden_since = None

    def remove(self, actor: Actor, seconds: float) -> None:
        """Its stay is over."""
        self.reveal(actor, seconds)
        presence = self.present.pop(actor)
        self.stays.append(Stay(actor, presence.start_seconds, seconds, tuple(presence.path), tuple(presence.hidden)))

    def is_clear(self, start: Point, end: Point, moving: set[Actor], goal: Cell | None = None) -> bool:
        """Whether a straight path passes nobody but those who move, and no prop but the one in the place `goal`."""
        cells = {presence.cell for actor, presence in self.present.items() if actor not in moving} | self.kind_of_cell.keys()
        return all(_distance(middle_of(cell), start, end) >= LEAST_DISTANCE for cell in cells if cell != goal)


def outside(cell: Cell, side: str) -> Point:
    """Where a figure is that has gone out of the frame from a place straight to a side."""
    across, down = SIDES[side]
    x, y = middle_of(cell)
    edge = {-1: -PAST_THE_EDGE, 1: 1 + PAST_THE_EDGE}
    return edge.get(across, x), edge.get(down, y)


def _distance(point: Point, start: Point, end: Point) -> float:
    """How far a point is from a straight line between two others."""
    along = end[0] - start[0], end[1] - start[1]
    share = (point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]
    share = min(1.0, max(0.0, share / (along[0] ** 2 + along[1] ** 2)))
    return math.dist(point, (start[0] + share * along[0], start[1] + share * along[1]))
