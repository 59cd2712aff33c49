"""Simulate one scene at random: which figure does what and when, and the paths that they take.

`simulate_scene` returns the finished `Scene`. Actions never overlap and start and end on whole
seconds. Between actions a figure stands in one of nine cells, and its path keeps so far from other
figures and props that it never seems to touch them or to hide.
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

CLEARANCE = 0.29  # least distance of a path from the centers of other figures and props
OUTSIDE_DISTANCE = 0.2  # of a figure's center from the frame's edge when it starts to enter
SHORTEST_ACTION_SECONDS = 3  # visible at one frame per second, and long enough for one blink
LONGEST_ACTION_SECONDS = 8
TOUCH_DISTANCE = 0.85  # of the sum of the radii: most shapes are narrower than a circle
TOUCH_TURN = 0.45  # fraction of a touch after which the figure has arrived; it leaves as late
PUSH_DONE = 0.75  # fraction of a push after which the pushed figure rests
COME_OUT_PROBABILITY = 0.4  # per slot, if figures do not hide until the end of the scene

Path = list[tuple[float, float, float]]  # (seconds, x, y)


@dataclass
class OpenAppearance:
    """The appearance of a figure that is still in the scene: its cell, and its path so far."""

    start_seconds: float
    cell: Cell
    path: Path
    hidden_intervals: list[Interval] = field(default_factory=list)
    hidden_since: float | None = None


class Layout:
    """State of the nine cells: the props, the figures that are present, finished appearances."""

    def __init__(self, props: tuple[Prop, ...]) -> None:
        self.prop_kinds = {prop.cell: prop.kind for prop in props}
        self.present: dict[Actor, OpenAppearance] = {}
        self.finished: list[Appearance] = []

    @property
    def visible(self) -> list[Actor]:
        """The figures that are present and not behind a prop."""
        return [actor for actor, state in self.present.items() if state.hidden_since is None]

    @property
    def hidden(self) -> list[Actor]:
        """The figures behind a prop."""
        return [actor for actor, state in self.present.items() if state.hidden_since is not None]

    @property
    def free_cells(self) -> list[Cell]:
        """The cells without a figure or a prop."""
        occupied = {state.cell for state in self.present.values()} | self.prop_kinds.keys()
        return [cell for cell in CELL_NAMES if cell not in occupied]

    def position(self, actor: Actor) -> Point:
        """Return the position of a figure."""
        return cell_center(self.present[actor].cell)

    def move(self, actor: Actor, start: float, end: float, cell: Cell) -> None:
        """Move a figure on a straight line to a cell."""
        path = [(start, *self.position(actor)), (end, *cell_center(cell))]
        self.follow_path(actor, path, cell)

    def follow_path(self, actor: Actor, path: Path, cell: Cell) -> None:
        """Move a figure along a path that ends in a cell."""
        self.present[actor].path += path
        self.present[actor].cell = cell

    def hide(self, actor: Actor, seconds: float) -> None:
        """Hide a figure behind the prop of its cell."""
        self.present[actor].hidden_since = seconds

    def reveal(self, actor: Actor, seconds: float) -> None:
        """End the hiding of a figure, if it is hidden."""
        state = self.present[actor]
        if state.hidden_since is not None:
            state.hidden_intervals.append((state.hidden_since, seconds))
            state.hidden_since = None

    def remove(self, actor: Actor, seconds: float) -> None:
        """End the appearance of a figure."""
        self.reveal(actor, seconds)
        state = self.present.pop(actor)
        hidden_intervals = tuple(state.hidden_intervals)
        self.finished.append(
            Appearance(actor, state.start_seconds, seconds, tuple(state.path), hidden_intervals)
        )

    def is_clear(
        self, start: Point, end: Point, moving: set[Actor], goal: Cell | None = None
    ) -> bool:
        """Return whether a straight path keeps its distance from all figures and props.

        Args:
            start: first point of the path.
            end: last point of the path.
            moving: figures that may be close to it.
            goal: cell whose prop may be close to it; None for no cell.
        """
        cells = {
            state.cell for actor, state in self.present.items() if actor not in moving
        } | self.prop_kinds.keys()
        return all(
            _distance_to_segment(cell_center(cell), start, end) >= CLEARANCE
            for cell in cells
            if cell != goal
        )


@dataclass(frozen=True)
class Pace:
    """Distribution of the durations of actions and of the time between their starts."""

    slot_seconds: float

    @classmethod
    def of(cls, actions_per_minute: float) -> Pace:
        """Return the pace with so many actions per minute."""
        return cls(60.0 / actions_per_minute)

    def draw(self, random: Random) -> tuple[int, int]:
        """Draw the duration of an action and the time until the next may start, in seconds.

        At least one second without an action follows.
        """
        slot = self.slot_seconds
        longest = min(LONGEST_ACTION_SECONDS, int(0.75 * slot))
        duration = random.randint(SHORTEST_ACTION_SECONDS, max(SHORTEST_ACTION_SECONDS, longest))
        until_next = random.randint(math.floor(0.8 * slot), math.ceil(1.2 * slot))
        return duration, max(duration + 1, until_next)


def simulate_scene(
    random: Random,
    interval: Interval,
    background: Background,
    props: tuple[Prop, ...],
    cast: list[Actor],
    known: set[Actor],
    pace: Pace,
) -> Scene:
    """Simulate one scene.

    Args:
        random: the source of every choice.
        interval: start and end of the scene, in seconds.
        background: its background.
        props: two things to hide behind.
        cast: the figures; the first one or two are present from the start.
        known: figures of earlier scenes, for which the verb is "returns" instead of "enters".
        pace: of its actions.
    """
    start, end = interval
    simulator = _SceneSimulator(random, start, props, cast, known)
    seconds = start + 1  # nothing happens in the first second
    while True:
        duration, until_next = pace.draw(random)
        if seconds + duration >= end:
            break
        is_last = seconds + until_next + pace.slot_seconds + SHORTEST_ACTION_SECONDS >= end
        simulator.add_action(seconds, seconds + duration, is_last)
        seconds += until_next
    layout = simulator.layout
    for actor in list(layout.present):
        layout.remove(actor, end)
    appearances = sorted(layout.finished, key=lambda appearance: appearance.start_seconds)
    return Scene(start, end, background, props, tuple(appearances), tuple(simulator.actions))


class _SceneSimulator:
    """State of a scene while its actions are added one after the other."""

    def __init__(
        self,
        random: Random,
        start: float,
        props: tuple[Prop, ...],
        cast: list[Actor],
        known: set[Actor],
    ) -> None:
        self.random = random
        self.layout = Layout(props)
        self.actions: list[Action] = []
        self.known = set(known)
        self.hides_until_end = random.random() < 0.5
        num_present = min(len(cast), random.randint(1, 2))
        self.absent = cast[num_present:]
        for actor in cast[:num_present]:
            cell = random.choice(self.layout.free_cells)
            self._add_actor(actor, start, cell, [(start, *cell_center(cell))])

    def add_action(self, start: float, end: float, is_last: bool) -> None:
        """Add one action between two times if any is possible; `is_last` in the last slot."""
        may_come_out = not self.hides_until_end and self.random.random() < COME_OUT_PROBABILITY
        if self.layout.hidden and (is_last or may_come_out or not self.layout.visible):
            self._add_come_out(start, end)
            return
        candidates: list[tuple[float, Callable[[float, float], bool]]] = [
            (12, self._add_solo),
            (6, self._add_meeting),
            (4, self._add_enter),
            (1, self._add_leave),
        ]
        if not is_last and not self.layout.hidden:
            candidates.append((3, self._add_hide))
        while candidates:
            weights = [weight for weight, _ in candidates]
            index = self.random.choices(range(len(candidates)), weights=weights)[0]
            _, add_candidate = candidates.pop(index)
            if add_candidate(start, end):
                return

    # The methods below add an action if the layout allows it, and return whether they did.

    def _add_solo(self, start: float, end: float) -> bool:
        actor, verb = self._draw_visible(), self.random.choice(SOLO_VERBS)
        if actor is None:
            return False
        if verb in MOVE_DIRECTIONS:
            cell = self._draw_move(actor, MOVE_DIRECTIONS[verb])
            if cell is None:
                return False
            self.layout.move(actor, start, end, cell)
        self.actions.append(Action(actor, verb, start, end))
        return True

    def _add_meeting(self, start: float, end: float) -> bool:
        """Add a push if a pair of figures allows one, else a touch."""
        visible = self.layout.visible
        num_pairs = len(visible) * (len(visible) - 1)
        pairs = self.random.sample(list(permutations(visible, 2)), num_pairs)
        return any(
            add_pair(start, end, *pair)
            for add_pair in (self._add_push, self._add_touch)
            for pair in pairs
        )

    def _add_touch(self, start: float, end: float, actor: Actor, partner: Actor) -> bool:
        here, there = self.layout.position(actor), self.layout.position(partner)
        if not self.layout.is_clear(here, there, {actor, partner}):
            return False
        share = 1 - _touch_distance(actor, partner) / math.dist(here, there)
        contact = here[0] + (there[0] - here[0]) * share, here[1] + (there[1] - here[1]) * share
        arrival = start + TOUCH_TURN * (end - start)
        departure = end - TOUCH_TURN * (end - start)
        path = [(start, *here), (arrival, *contact), (departure, *contact), (end, *here)]
        self.layout.follow_path(actor, path, self.layout.present[actor].cell)
        self.actions.append(Action(actor, "touches", start, end, partner.name))
        return True

    def _add_push(self, start: float, end: float, actor: Actor, partner: Actor) -> bool:
        """Push a figure one cell farther in a row or column; the actor stops in its former cell."""
        layout = self.layout
        cell, next_cell = layout.present[actor].cell, layout.present[partner].cell
        if (cell[0] == next_cell[0]) == (cell[1] == next_cell[1]):
            return False
        across, down = _sign(next_cell[0] - cell[0]), _sign(next_cell[1] - cell[1])
        goal = next_cell[0] + across, next_cell[1] + down
        if goal not in layout.free_cells:
            return False
        here, there, beyond = cell_center(cell), cell_center(next_cell), cell_center(goal)
        if not layout.is_clear(here, beyond, {actor, partner}):
            return False
        distance = _touch_distance(actor, partner)
        farthest = beyond[0] - across * distance, beyond[1] - down * distance
        done = start + PUSH_DONE * (end - start)
        share = (math.dist(here, there) - distance) / math.dist(here, farthest)
        contact = start + (done - start) * share
        layout.follow_path(actor, [(start, *here), (done, *farthest), (end, *there)], next_cell)
        layout.follow_path(partner, [(contact, *there), (done, *beyond)], goal)
        self.actions.append(Action(actor, "pushes", start, end, partner.name))
        return True

    def _add_hide(self, start: float, end: float) -> bool:
        actor = self._draw_visible()
        cell = self.random.choice(list(self.layout.prop_kinds))
        if actor is None:
            return False
        here = self.layout.position(actor)
        if not self.layout.is_clear(here, cell_center(cell), {actor}, cell):
            return False
        self.layout.move(actor, start, end, cell)
        self.layout.hide(actor, end)
        self.actions.append(Action(actor, "hides", start, end, self.layout.prop_kinds[cell]))
        return True

    def _add_come_out(self, start: float, end: float) -> None:
        """Let the first hidden figure come out to a cell that it can reach, if there is one."""
        actor = self.layout.hidden[0]
        behind = self.layout.present[actor].cell
        here = cell_center(behind)
        cells = [
            cell
            for cell in self.layout.free_cells
            if self.layout.is_clear(here, cell_center(cell), {actor}, behind)
        ]
        if cells:
            self.layout.reveal(actor, start)
            self.layout.move(actor, start, end, self.random.choice(cells))
            prop_kind = self.layout.prop_kinds[behind]
            self.actions.append(Action(actor, "comes out", start, end, prop_kind))

    def _add_enter(self, start: float, end: float) -> bool:
        cell, side = self.random.choice(self.layout.free_cells), self.random.choice(list(SIDES))
        here, there = outside_point(cell, side), cell_center(cell)
        if not self.absent or not self.layout.is_clear(here, there, set()):
            return False
        actor = self.absent.pop(0)
        verb = "returns" if actor in self.known else "enters"
        self.actions.append(Action(actor, verb, start, end, side))
        self._add_actor(actor, start, cell, [(start, *here), (end, *there)])
        return True

    def _add_leave(self, start: float, end: float) -> bool:
        actor, side = self._draw_visible(), self.random.choice(list(SIDES))
        if actor is None or len(self.layout.present) == 1:
            return False
        cell = self.layout.present[actor].cell
        here, there = cell_center(cell), outside_point(cell, side)
        if not self.layout.is_clear(here, there, {actor}):
            return False
        self.layout.follow_path(actor, [(start, *here), (end, *there)], cell)
        self.layout.remove(actor, end)
        self.absent.append(actor)
        self.actions.append(Action(actor, "leaves", start, end, side))
        return True

    def _add_actor(self, actor: Actor, seconds: float, cell: Cell, path: Path) -> None:
        self.layout.present[actor] = OpenAppearance(seconds, cell, path)
        self.known.add(actor)

    def _draw_visible(self) -> Actor | None:
        visible = self.layout.visible
        return self.random.choice(visible) if visible else None

    def _draw_move(self, actor: Actor, direction: tuple[int, int]) -> Cell | None:
        """Draw a free cell in a direction that the figure can reach, or None."""
        column, row = self.layout.present[actor].cell
        steps = [(column + direction[0] * num, row + direction[1] * num) for num in (1, 2)]
        free, here = self.layout.free_cells, cell_center((column, row))
        reachable = [
            cell
            for cell in steps
            if cell in free and self.layout.is_clear(here, cell_center(cell), {actor})
        ]
        return self.random.choice(reachable) if reachable else None


def outside_point(cell: Cell, side: str) -> Point:
    """Return the point outside the frame that is straight beyond a cell on a side."""
    across, down = SIDES[side]
    x, y = cell_center(cell)
    outside = {-1: -OUTSIDE_DISTANCE, 1: 1 + OUTSIDE_DISTANCE}
    return outside.get(across, x), outside.get(down, y)


def _distance_to_segment(point: Point, start: Point, end: Point) -> float:
    """Return the distance of a point from the line segment between two others."""
    along = end[0] - start[0], end[1] - start[1]
    share = (point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]
    share = min(1.0, max(0.0, share / (along[0] ** 2 + along[1] ** 2)))
    return math.dist(point, (start[0] + share * along[0], start[1] + share * along[1]))


def _touch_distance(actor: Actor, partner: Actor) -> float:
    """Return the distance between the centers of two figures that touch."""
    return TOUCH_DISTANCE * (actor.size + partner.size) / 2


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
