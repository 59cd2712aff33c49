"""Result of one measurement, and whether it meets its goal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["met", "missed", "skipped", "for comparison"]


@dataclass(frozen=True)
class Goal:
    """Bound for our figure, absolute or relative to the peer's or the limit's figure."""

    bound: Literal["at most", "at least"]
    value: float
    compared_with: Literal["peer", "limit", "nothing"] = "peer"

    def __str__(self) -> str:
        of = "" if self.compared_with == "nothing" else f" of the {self.compared_with}"
        return f"{self.bound} {self.value:g}{of}"


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Attributes:
        target: a key of `topics.TARGETS`.
        what: what was measured, such as "720p, a key frame every 10 s".
        unit: of all figures: "s", "MB", "samples/s".
        ours: figure of this project; None if it could not be measured.
        peer: figure of `peer_name` in the same run.
        limit: what the machine allows, as described by `limit_name`.
        goal: None for a row without a goal.
        why: for a missed goal, what limits it and what was tried; for a skipped row, what it needs.
        curve: seconds by minutes of video, for the plot of cost against length.
    """

    target: int
    what: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    peer_name: str = ""
    limit: float | None = None
    limit_name: str = ""
    goal: Goal | None = None
    why: str = ""
    curve: dict[float, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Our figure over the peer's, or over the limit's if the goal names it or without a
        peer."""
        compared_with = self.goal.compared_with if self.goal else "peer"
        other = self.limit if compared_with == "limit" or self.peer is None else self.peer
        return None if self.ours is None or not other else self.ours / other

    @property
    def judged_figure(self) -> float | None:
        """The figure that the goal bounds: `ours` or `ratio`."""
        is_absolute = self.goal is not None and self.goal.compared_with == "nothing"
        return self.ours if is_absolute else self.ratio

    @property
    def verdict(self) -> Verdict:
        """The verdict on the goal."""
        if self.goal is None:
            return "skipped" if self.ours is None else "for comparison"
        found = self.judged_figure
        if found is None:
            return "skipped"
        if self.goal.bound == "at most":
            return "met" if found <= self.goal.value else "missed"
        return "met" if found >= self.goal.value else "missed"

    @property
    def missed_by(self) -> float:
        """Distance of the figure from its goal, relative to the goal; 0 if the goal is met."""
        if self.verdict != "missed" or self.goal is None:
            return 0.0
        return abs((self.judged_figure or 0.0) - self.goal.value) / self.goal.value
