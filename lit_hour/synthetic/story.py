"""Data classes of a synthetic video's ground truth: scenes, figures and what the figures do.

A `Story` determines everything: frames, questions, answers and captions are all computed from it.
Positions are fractions of the frame, `x` from the left and `y` from the top. Times are seconds from
the start of the video. A figure at rest stands in one of nine cells, a 3x3 grid over the frame.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

Difficulty = Literal["easy", "needles", "full"]
Interval = tuple[float, float]  # start and end in seconds
Point = tuple[float, float]  # x and y
Cell = tuple[int, int]  # column and row

COLORS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
MOVE_DIRECTIONS = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}
SOLO_VERBS = (*MOVE_DIRECTIONS, "spins", "grows", "shrinks", "blinks", "bounces")
BACKGROUND_COLORS = ("grey", "brown", "pink", "orange", "purple", "turquoise")  # none in COLORS
PATTERNS = ("plain", "striped", "dotted", "checked")
PROPS = ("box", "rock", "bush")  # a figure can hide behind each
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

CELL_CENTERS = (0.2, 0.5, 0.8)  # of the three columns and of the three rows
CELL_NAMES: dict[Cell, str] = {
    (column, row): ("middle" if across == down == "middle" else f"{down} {across}")
    for row, down in enumerate(("top", "middle", "bottom"))
    for column, across in enumerate(("left", "middle", "right"))
}
SMALL_SIZE, LARGE_SIZE = 0.19, 0.27

PREPOSITIONS = {  # between a verb and its target
    "enters": "from the",
    "returns": "from the",
    "leaves": "to the",
    "touches": "the",
    "pushes": "the",
    "hides": "behind the",
    "comes out": "from behind the",
}


@dataclass(frozen=True)
class Actor:
    """A figure: a colored shape. The pair of shape and color is unique within a story.

    Attributes:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        size: largest diameter, as a fraction of the frame's height.
        has_eye: whether an eye is drawn in the upper half; it makes the spin of a circle visible.
    """

    shape: str
    color: str
    size: float
    has_eye: bool = True

    @property
    def name(self) -> str:
        """The name used in questions, such as `red star`."""
        return f"{self.color} {self.shape}"

    @property
    def size_word(self) -> str:
        """`small` or `large`."""
        return "small" if self.size < (SMALL_SIZE + LARGE_SIZE) / 2 else "large"


@dataclass(frozen=True)
class Background:
    """The background of a scene: a color, and a pattern in a darker tone of it."""

    color: str
    pattern: str = "plain"

    @property
    def name(self) -> str:
        """The name used in questions, such as `dotted pink`."""
        return f"{self.pattern} {self.color}"


@dataclass(frozen=True)
class Prop:
    """An object that stands in a cell of a scene and hides what is behind it."""

    kind: str
    cell: Cell


@dataclass(frozen=True)
class Action:
    """Something that a figure does, alone or to another figure.

    Attributes:
        verb: one of `SOLO_VERBS`, or "stands still", "enters", "returns", "leaves", "touches",
            "pushes", "hides", "comes out".
        target: name of the other figure, kind of the prop, or side; empty if the verb has none.
    """

    actor: Actor
    verb: str
    start_seconds: float
    end_seconds: float
    target: str = ""

    @property
    def interval(self) -> Interval:
        """Start and end in seconds."""
        return self.start_seconds, self.end_seconds

    @property
    def predicate(self) -> str:
        """Verb and target: `spins`, `hides behind the rock`."""
        return f"{self.verb} {PREPOSITIONS[self.verb]} {self.target}" if self.target else self.verb

    @property
    def clause(self) -> str:
        """Subject and predicate: `the red star spins`."""
        return f"the {self.actor.name} {self.predicate}"


@dataclass(frozen=True)
class Appearance:
    """The presence of one figure in a scene, from entering to leaving or to the end of the scene.

    Attributes:
        path: (seconds, x, y) in time order, linearly interpolated; constant before and after.
        hidden_intervals: when the figure is behind a prop.
    """

    actor: Actor
    start_seconds: float
    end_seconds: float
    path: tuple[tuple[float, float, float], ...]
    hidden_intervals: tuple[Interval, ...] = ()

    @property
    def interval(self) -> Interval:
        """Start and end in seconds."""
        return self.start_seconds, self.end_seconds

    def position_at(self, seconds: float) -> Point:
        """Return the position of the figure at a time."""
        if seconds <= self.path[0][0]:
            return self.path[0][1:]
        for (start, x, y), (end, next_x, next_y) in pairwise(self.path):
            if seconds < end:
                progress = (seconds - start) / (end - start)
                return x + (next_x - x) * progress, y + (next_y - y) * progress
        return self.path[-1][1:]

    def is_hidden_at(self, seconds: float) -> bool:
        """Return whether the figure is behind a prop."""
        return any(start <= seconds < end for start, end in self.hidden_intervals)

    def is_present_at(self, seconds: float) -> bool:
        """Return whether the figure is in the scene, hidden or not."""
        return self.start_seconds <= seconds < self.end_seconds


@dataclass(frozen=True)
class Scene:
    """A part of the story on one background.

    Attributes:
        appearances: a figure that leaves and returns has several.
        actions: in time order; they never overlap.
    """

    start_seconds: float
    end_seconds: float
    background: Background
    props: tuple[Prop, ...]
    appearances: tuple[Appearance, ...]
    actions: tuple[Action, ...]

    @property
    def interval(self) -> Interval:
        """Start and end in seconds."""
        return self.start_seconds, self.end_seconds

    @property
    def actors(self) -> tuple[Actor, ...]:
        """The figures of the scene without repetition, in order of appearance."""
        return tuple(dict.fromkeys(appearance.actor for appearance in self.appearances))

    def action_at(self, seconds: float) -> Action | None:
        """Return the action in progress at a time, or None."""
        for action in self.actions:
            if action.start_seconds <= seconds < action.end_seconds:
                return action
        return None


@dataclass(frozen=True)
class Story:
    """Contiguous scenes from 0 to `duration_seconds`."""

    seed: int
    duration_seconds: float
    scenes: tuple[Scene, ...]
    difficulty: Difficulty = "full"

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """The actions of all scenes, in time order."""
        return tuple(action for scene in self.scenes for action in scene.actions)

    @cached_property
    def appearances(self) -> tuple[Appearance, ...]:
        """The appearances of all scenes, scene by scene."""
        return tuple(appearance for scene in self.scenes for appearance in scene.appearances)

    @cached_property
    def actors(self) -> tuple[Actor, ...]:
        """The figures of the story without repetition, in order of first appearance."""
        return tuple(dict.fromkeys(appearance.actor for appearance in self.appearances))

    def scene_at(self, seconds: float) -> Scene:
        """Return the scene at a time of the story."""
        return self.scenes[bisect_right(self._scene_starts, seconds) - 1]

    @cached_property
    def _scene_starts(self) -> list[float]:
        return [scene.start_seconds for scene in self.scenes]


def cell_center(cell: Cell) -> Point:
    """Return the center of a cell."""
    return CELL_CENTERS[cell[0]], CELL_CENTERS[cell[1]]


def nearest_cell_name(point: Point) -> str:
    """Return the name of the cell nearest to a point."""
    column, row = (_nearest_center(coordinate) for coordinate in point)
    return CELL_NAMES[column, row]


def _nearest_center(coordinate: float) -> int:
    """Return the index of the nearest column or row."""
    return min(range(len(CELL_CENTERS)), key=lambda i: abs(CELL_CENTERS[i] - coordinate))
