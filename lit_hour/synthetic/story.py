"""The nouns of a made-up story: scenes one after the other, figures that stay in them, and deeds, one at a time.

A `Story` is the whole truth about a video. What is drawn and what is asked both follow from it and from nothing else.
Places are shares of the frame, `x` from the left and `y` from the top; times are seconds from the start of the video.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

Difficulty = Literal["easy", "needles", "full"]
Interval = tuple[float, float]
Point = tuple[float, float]
Cell = tuple[int, int]  # column and row of the nine places

COLORS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
MOVE_DIRECTIONS = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}
SOLO_VERBS = (
    *MOVE_DIRECTIONS,
    "spins",
    "grows",
    "shrinks",
    "blinks",
    "bounces",
)  # what a figure does by itself
BACKGROUND_COLORS = (
    "grey",
    "brown",
    "pink",
    "orange",
    "purple",
    "turquoise",
)  # none is a figure's
PATTERNS = ("plain", "striped", "dotted", "checked")
PROPS = ("box", "rock", "bush")  # what one can hide behind
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

CELL_CENTERS = (0.2, 0.5, 0.8)  # middle of the first, second and third column or row
CELL_NAMES: dict[Cell, str] = {
    (column, row): ("middle" if across == down == "middle" else f"{down} {across}")
    for row, down in enumerate(("top", "middle", "bottom"))
    for column, across in enumerate(("left", "middle", "right"))
}
SMALL_SIZE, LARGE_SIZE = 0.19, 0.27


@dataclass(frozen=True)
class Actor:
    """A figure: a coloured shape. No other figure of a story has both its shape and its colour.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: diameter at its largest, as a share of the frame's height.
        has_eye: whether it has an eye in its upper half, which shows that a circle spins.
    """

    shape: str
    color: str
    size: float
    has_eye: bool = True

    @property
    def name(self) -> str:
        """What questions call it."""
        return f"{self.color} {self.shape}"

    @property
    def size_word(self) -> str:
        """`small` or `large`."""
        return "small" if self.size < (SMALL_SIZE + LARGE_SIZE) / 2 else "large"


@dataclass(frozen=True)
class Background:
    """What a scene is played on: a colour, and a pattern in a darker tone of it."""

    color: str
    pattern: str = "plain"

    @property
    def name(self) -> str:
        """What questions call it."""
        return f"{self.pattern} {self.color}"


@dataclass(frozen=True)
class Prop:
    """A thing that stands in a scene and covers what is behind it."""

    kind: str
    cell: Cell


@dataclass(frozen=True)
class Action:
    """Something that a figure does, alone or to another.

    Attributes:
        action: one of `ACTIONS`, or "stands still", "enters", "returns", "leaves", "touches", "pushes", "hides", "comes out".
        target: the partner's name, the kind of the prop or the side; empty when the action has none.
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
        """What the actor does: `spins`, `hides behind the rock`."""
        between = {
            "enters": "from the",
            "returns": "from the",
            "leaves": "to the",
            "touches": "the",
            "pushes": "the",
        }
        between |= {"hides": "behind the", "comes out": "from behind the"}
        return f"{self.verb} {between[self.verb]} {self.target}" if self.target else self.verb

    @property
    def clause(self) -> str:
        """Who does what: `the red star spins`."""
        return f"the {self.actor.name} {self.predicate}"


@dataclass(frozen=True)
class Appearance:
    """The time from when a figure comes into a scene until it has left or the scene ends.

    Attributes:
        path: (seconds, x, y) in the order of time, with straight lines between; before and after, it stands.
        hidden: when it is behind a prop.
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
        """Where the figure is at a time."""
        if seconds <= self.path[0][0]:
            return self.path[0][1:]
        for (start, x, y), (end, next_x, next_y) in pairwise(self.path):
            if seconds < end:
                progress = (seconds - start) / (end - start)
                return x + (next_x - x) * progress, y + (next_y - y) * progress
        return self.path[-1][1:]

    def is_hidden_at(self, seconds: float) -> bool:
        """Whether it is behind a prop."""
        return any(start <= seconds < end for start, end in self.hidden_intervals)

    def is_present_at(self, seconds: float) -> bool:
        """Whether it is in the scene, hidden or not."""
        return self.start_seconds <= seconds < self.end_seconds


@dataclass(frozen=True)
class Scene:
    """A stretch of the story on one background; its deeds follow one another and never overlap.

    Attributes:
        stays: a figure that leaves and returns has several.
        deeds: in the order of time.
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
        """Who is seen in it, each once, in the order of coming in."""
        return tuple(dict.fromkeys(stay.actor for stay in self.appearances))

    def action_at(self, seconds: float) -> Action | None:
        """What is being done at a time."""
        for deed in self.actions:
            if deed.start_seconds <= seconds < deed.end_seconds:
                return deed
        return None


@dataclass(frozen=True)
class Story:
    """Scenes that follow one another without a gap from 0 to `duration_seconds`."""

    seed: int
    duration_seconds: float
    scenes: tuple[Scene, ...]
    difficulty: Difficulty = "full"

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Every deed, in the order of time."""
        return tuple(deed for scene in self.scenes for deed in scene.actions)

    @cached_property
    def appearances(self) -> tuple[Appearance, ...]:
        """Every stay, scene by scene."""
        return tuple(stay for scene in self.scenes for stay in scene.appearances)

    @cached_property
    def actors(self) -> tuple[Actor, ...]:
        """Who is seen in it, each once, in the order of first coming in."""
        return tuple(dict.fromkeys(stay.actor for stay in self.appearances))

    def scene_at(self, seconds: float) -> Scene:
        """The scene that is on at a time of the story."""
        return self.scenes[bisect_right(self._starts, seconds) - 1]

    @cached_property
    def _starts(self) -> list[float]:
        return [scene.start_seconds for scene in self.scenes]


def cell_center(cell: Cell) -> Point:
    """Where a figure stands in one of the nine places."""
    return CELL_CENTERS[cell[0]], CELL_CENTERS[cell[1]]


def nearest_cell_name(point: Point) -> str:
    """The name of the place that a point is nearest to."""
    column, row = (_nearest(share) for share in point)
    return CELL_NAMES[column, row]


def _nearest(share: float) -> int:
    """The column or row whose middle is nearest to a share of the frame."""
    return min(range(len(CELL_CENTERS)), key=lambda index: abs(CELL_CENTERS[index] - share))
