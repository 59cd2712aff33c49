"""Where the figures of a scene are at one moment: who is there, who is hidden, what is free, which ways are clear.

The figures, props and times of one scene in, the `Scene` out: who does what when, and the path that it takes.

One deed at a time, on whole seconds. A figure stands in one of nine places between its deeds, and never passes another
figure or a prop so closely that it seemed to touch it or to hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from random import Random

from lit_hour.synthetic.story import (
    CELL_NAMES,
    MOVE_DIRECTIONS,
    SIDES,
    SOLO_VERBS,
    Action,
    Actor,
    Appearance,
    Background,
    Cell,
    Interval,
    Point,
    Prop,
    Scene,
    cell_center,
)

LEAST_DISTANCE = 0.29  # of a path from the middle of a figure or a prop that it passes: two large figures do not touch
PAST_THE_EDGE = 0.2  # how far outside the frame a figure is when it begins to come in


@dataclass
class OpenAppearance:
    """A stay that is not over yet: since when, in which of the places, and the path up to now."""

    start_seconds: float
    cell: Cell
    path: list[tuple[float, float, float]]
    hidden: list[Interval] = field(default_factory=list)
    hidden_since: float | None = None


class Layout:
    """Nine places, some of them with a prop, and the figures that are present."""

    def __init__(self, props: tuple[Prop, ...]) -> None:
        self.kind_of_cell = {prop.cell: prop.kind for prop in props}
        self.present: dict[Actor, OpenAppearance] = {}
        self.stays: list[Appearance] = []

    @property
    def visible(self) -> list[Actor]:
        """Who is present and not behind a prop."""
        return [actor for actor, presence in self.present.items() if presence.hidden_since is None]

    @property
    def hidden(self) -> list[Actor]:
        """Who is behind a prop."""
        return [
            actor for actor, presence in self.present.items() if presence.hidden_since is not None
        ]

    @property
    def free_cells(self) -> list[Cell]:
        """The places with neither a figure nor a prop."""
        taken = {presence.cell for presence in self.present.values()} | self.kind_of_cell.keys()
        return [cell for cell in CELL_NAMES if cell not in taken]

    def point(self, actor: Actor) -> Point:
        """Where a figure stands."""
        return cell_center(self.present[actor].cell)

    def walk(self, actor: Actor, start: float, end: float, cell: Cell) -> None:
        """Let it go straight to a place."""
        self.follow(actor, [(start, *self.point(actor)), (end, *cell_center(cell))], cell)

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
        self.stays.append(
            Appearance(
                actor, presence.start_seconds, seconds, tuple(presence.path), tuple(presence.hidden)
            )
        )

    def is_clear(
        self, start: Point, end: Point, moving: set[Actor], goal: Cell | None = None
    ) -> bool:
        """Whether a straight path passes nobody but those who move, and no prop but the one in the place `goal`."""
        cells = {
            presence.cell for actor, presence in self.present.items() if actor not in moving
        } | self.kind_of_cell.keys()
        return all(
            _distance(cell_center(cell), start, end) >= LEAST_DISTANCE
            for cell in cells
            if cell != goal
        )


def outside(cell: Cell, side: str) -> Point:
    """Where a figure is that has gone out of the frame from a place straight to a side."""
    across, down = SIDES[side]
    x, y = cell_center(cell)
    edge = {-1: -PAST_THE_EDGE, 1: 1 + PAST_THE_EDGE}
    return edge.get(across, x), edge.get(down, y)


def _distance(point: Point, start: Point, end: Point) -> float:
    """How far a point is from a straight line between two others."""
    along = end[0] - start[0], end[1] - start[1]
    share = (point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]
    share = min(1.0, max(0.0, share / (along[0] ** 2 + along[1] ** 2)))
    return math.dist(point, (start[0] + share * along[0], start[1] + share * along[1]))


SHORTEST_DEED_SECONDS, LONGEST_DEED_SECONDS = (
    3,
    8,
)  # seen at one frame per second, and long enough for a blink
REACH_OF_TOUCH = 0.85  # of the two radii: figures that touch overlap a little, as most shapes are narrower than a circle
TURN_BACK, PUSHED = 0.45, 0.75  # share of a deed after which a touch goes back, or a push is done
COMES_OUT_SOON = 0.4  # chance in each slot, for those that do not wait until the scene ends


@dataclass(frozen=True)
class Pace:
    """How long deeds take, and how soon one follows another, in seconds."""

    slot_seconds: float

    @classmethod
    def of(cls, actions_per_minute: float) -> Pace:
        """The pace that has so many deeds in a minute."""
        return cls(60.0 / actions_per_minute)

    def draw(self, random: Random) -> tuple[int, int]:
        """How long a deed takes, and how long until the next one may begin: at least a second later."""
        longest = max(
            SHORTEST_DEED_SECONDS, min(LONGEST_DEED_SECONDS, int(0.75 * self.slot_seconds))
        )
        deed = random.randint(SHORTEST_DEED_SECONDS, longest)
        slot = random.randint(
            math.floor(0.8 * self.slot_seconds), math.ceil(1.2 * self.slot_seconds)
        )
        return deed, max(deed + 1, slot)


def simulate_scene(
    random: Random,
    interval: Interval,
    background: Background,
    props: tuple[Prop, ...],
    cast: list[Actor],
    seen: set[Actor],
    pace: Pace,
) -> Scene:
    """Play one scene.

    Args:
        cast: who is there from the start (the first one or two) or comes in later.
        seen: who was seen in an earlier scene, and therefore returns where others enter.
    """
    start, end = interval
    stage = _SceneSimulator(random, start, props, cast, seen)
    seconds = start + 1  # everyone stands for a moment
    while True:
        deed_seconds, slot_seconds = pace.draw(random)
        if seconds + deed_seconds >= end:
            break
        is_last = seconds + slot_seconds + pace.slot_seconds + SHORTEST_DEED_SECONDS >= end
        stage.act(seconds, seconds + deed_seconds, is_last)
        seconds += slot_seconds
    for actor in list(stage.floor.present):
        stage.floor.remove(actor, end)
    stays = sorted(stage.floor.stays, key=lambda stay: stay.start_seconds)
    return Scene(start, end, background, props, tuple(stays), tuple(stage.deeds))


class _SceneSimulator:
    """Where everyone is at one moment of the scene, and what has been done up to it."""

    def __init__(
        self,
        random: Random,
        start: float,
        props: tuple[Prop, ...],
        cast: list[Actor],
        seen: set[Actor],
    ) -> None:
        self.random = random
        self.floor = Layout(props)
        self.deeds: list[Action] = []
        self.seen = set(seen)
        self.hides_long = (
            random.random() < 0.5
        )  # whether one who hides stays there as long as the scene allows
        num_there = min(len(cast), random.randint(1, 2))
        self.waiting = cast[num_there:]
        for actor in cast[:num_there]:
            cell = random.choice(self.floor.free_cells)
            self._add(actor, start, cell, [(start, *cell_center(cell))])

    def act(self, start: float, end: float, is_last: bool) -> None:
        """Let one figure do something between these times, if anything is possible; `is_last`: there is no slot after it."""
        is_soon = not self.hides_long and self.random.random() < COMES_OUT_SOON
        if self.floor.hidden and (is_last or is_soon or not self.floor.visible):
            self._come_out(start, end)
            return
        ways: list[tuple[float, Callable[[float, float], bool]]] = [
            (12, self._act_alone),
            (6, self._meet),
            (4, self._enter),
        ]
        ways.append((1, self._leave))
        if not is_last and not self.floor.hidden:
            ways.append((3, self._hide))
        while ways:
            index = self.random.choices(range(len(ways)), weights=[weight for weight, _ in ways])[0]
            if ways.pop(index)[1](start, end):
                return

    # What can be done: each returns whether it was possible, and then it is done

    def _act_alone(self, start: float, end: float) -> bool:
        actor, action = self._draw_visible(), self.random.choice(SOLO_VERBS)
        if actor is None:
            return False
        if action in MOVE_DIRECTIONS:
            cell = self._draw_move(actor, MOVE_DIRECTIONS[action])
            if cell is None:
                return False
            self.floor.walk(actor, start, end, cell)
        self.deeds.append(Action(actor, action, start, end))
        return True

    def _meet(self, start: float, end: float) -> bool:
        """A push, if two stand in a row or a column with a free place beyond; or else a touch."""
        visible = self.floor.visible
        pairs = self.random.sample(
            list(permutations(visible, 2)), len(visible) * (len(visible) - 1)
        )
        return any(way(start, end, *pair) for way in (self._push, self._touch) for pair in pairs)

    def _touch(self, start: float, end: float, actor: Actor, partner: Actor) -> bool:
        here, there = self.floor.point(actor), self.floor.point(partner)
        if not self.floor.is_clear(here, there, {actor, partner}):
            return False
        share = 1 - _reach(actor, partner) / math.dist(here, there)
        contact = here[0] + (there[0] - here[0]) * share, here[1] + (there[1] - here[1]) * share
        turn, back = start + TURN_BACK * (end - start), end - TURN_BACK * (end - start)
        path = [(start, *here), (turn, *contact), (back, *contact), (end, *here)]
        self.floor.follow(actor, path, self.floor.present[actor].cell)
        self.deeds.append(Action(actor, "touches", start, end, partner.name))
        return True

    def _push(self, start: float, end: float, actor: Actor, partner: Actor) -> bool:
        """Along a row or a column: the partner goes one place farther, and the actor steps back to where that one was."""
        cell, next_cell = self.floor.present[actor].cell, self.floor.present[partner].cell
        if (cell[0] == next_cell[0]) == (cell[1] == next_cell[1]):
            return False
        across, down = _sign(next_cell[0] - cell[0]), _sign(next_cell[1] - cell[1])
        goal = next_cell[0] + across, next_cell[1] + down
        here, there = cell_center(cell), cell_center(next_cell)
        if goal not in self.floor.free_cells or not self.floor.is_clear(
            here, cell_center(goal), {actor, partner}
        ):
            return False
        beyond, reach = cell_center(goal), _reach(actor, partner)
        farthest = beyond[0] - across * reach, beyond[1] - down * reach
        done = start + PUSHED * (end - start)
        met = start + (done - start) * (math.dist(here, there) - reach) / math.dist(here, farthest)
        self.floor.follow(actor, [(start, *here), (done, *farthest), (end, *there)], next_cell)
        self.floor.follow(partner, [(met, *there), (done, *beyond)], goal)
        self.deeds.append(Action(actor, "pushes", start, end, partner.name))
        return True

    def _hide(self, start: float, end: float) -> bool:
        actor = self._draw_visible()
        cell = self.random.choice(list(self.floor.kind_of_cell))
        if actor is None or not self.floor.is_clear(
            self.floor.point(actor), cell_center(cell), {actor}, cell
        ):
            return False
        self.floor.walk(actor, start, end, cell)
        self.floor.hide(actor, end)
        self.deeds.append(Action(actor, "hides", start, end, self.floor.kind_of_cell[cell]))
        return True

    def _come_out(self, start: float, end: float) -> None:
        """To a place that can be reached; when there is none, it stays where it is for now."""
        actor = self.floor.hidden[0]
        behind = self.floor.present[actor].cell
        here = cell_center(behind)
        cells = [
            cell
            for cell in self.floor.free_cells
            if self.floor.is_clear(here, cell_center(cell), {actor}, behind)
        ]
        if cells:
            self.floor.reveal(actor, start)
            self.floor.walk(actor, start, end, self.random.choice(cells))
            self.deeds.append(
                Action(actor, "comes out", start, end, self.floor.kind_of_cell[behind])
            )

    def _enter(self, start: float, end: float) -> bool:
        cell, side = self.random.choice(self.floor.free_cells), self.random.choice(list(SIDES))
        if not self.waiting or not self.floor.is_clear(
            outside(cell, side), cell_center(cell), set()
        ):
            return False
        actor = self.waiting.pop(0)
        self.deeds.append(
            Action(actor, "returns" if actor in self.seen else "enters", start, end, side)
        )
        self._add(actor, start, cell, [(start, *outside(cell, side)), (end, *cell_center(cell))])
        return True

    def _leave(self, start: float, end: float) -> bool:
        actor, side = self._draw_visible(), self.random.choice(list(SIDES))
        if actor is None or len(self.floor.present) == 1:
            return False
        cell = self.floor.present[actor].cell
        if not self.floor.is_clear(cell_center(cell), outside(cell, side), {actor}):
            return False
        self.floor.follow(actor, [(start, *cell_center(cell)), (end, *outside(cell, side))], cell)
        self.floor.remove(actor, end)
        self.waiting.append(actor)
        self.deeds.append(Action(actor, "leaves", start, end, side))
        return True

    def _add(
        self, actor: Actor, seconds: float, cell: Cell, path: list[tuple[float, float, float]]
    ) -> None:
        self.floor.present[actor] = OpenAppearance(seconds, cell, path)
        self.seen.add(actor)

    def _draw_visible(self) -> Actor | None:
        visible = self.floor.visible
        return self.random.choice(visible) if visible else None

    def _draw_move(self, actor: Actor, direction: tuple[int, int]) -> Cell | None:
        """A free place in a direction that can be reached, or None."""
        column, row = self.floor.present[actor].cell
        steps = [(column + direction[0] * num, row + direction[1] * num) for num in (1, 2)]
        free, here = self.floor.free_cells, cell_center((column, row))
        within = [
            step
            for step in steps
            if step in free and self.floor.is_clear(here, cell_center(step), {actor})
        ]
        return self.random.choice(within) if within else None


def _reach(actor: Actor, partner: Actor) -> float:
    """How far apart the middles of two figures are that touch."""
    return REACH_OF_TOUCH * (actor.size + partner.size) / 2


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
