"""What one measurement found: ours, a peer's, the machine's limit, and whether the target is met."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["met", "missed", "skipped", "for comparison"]


@dataclass(frozen=True)
class Goal:
    """A bound for ours, as it is or divided by the peer's or the limit's figure of the same run."""

    bound: Literal["at most", "at least"]
    value: float
    compared_with: Literal["peer", "limit", "nothing"] = "peer"

    def __str__(self) -> str:
        of = "" if self.compared_with == "nothing" else f" of the {self.compared_with}"
        return f"{self.bound} {self.value:g}{of}"


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes:
        target: 1 to 7, see `TARGETS` in `report`.
        what: what was measured, on what: "720p, a key frame each 10 s".
        unit: of all figures: "s", "MB", "samples/s".
        ours: None when it could not be measured.
        peer: what `peer_name` needed for the same in the same run.
        limit: what the machine allows, as `limit_name` says.
        goal: None for a line that is only there for comparison.
        why: for a goal that is missed, what was tried and what limits it; for a line that was skipped, what it would need.
        curve: minutes of video to seconds, for the plot of cost against length.
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
        """Ours to the peer's, or to the limit where the goal compares with it or no peer is there."""
        compared_with = self.goal.compared_with if self.goal else "peer"
        other = self.limit if compared_with == "limit" or self.peer is None else self.peer
        return None if self.ours is None or not other else self.ours / other

    @property
    def verdict(self) -> Verdict:
        """Whether the goal is met."""
        if self.goal is None:
            return "skipped" if self.ours is None else "for comparison"
        found = self.ours if self.goal.compared_with == "nothing" else self.ratio
        if found is None:
            return "skipped"
        is_met = (
            found <= self.goal.value if self.goal.bound == "at most" else found >= self.goal.value
        )
        return "met" if is_met else "missed"

    @property
    def missed_by(self) -> float:
        """How far the figure is from its goal, as a share of the goal; 0 when it is met."""
        if self.verdict != "missed" or self.goal is None:
            return 0.0
        found = self.ours if self.goal.compared_with == "nothing" else self.ratio
        return abs((found or 0.0) - self.goal.value) / self.goal.value
