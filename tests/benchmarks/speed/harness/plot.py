"""Plot outcomes: distance from the goals, and cost against the length of the video."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tests.benchmarks.speed.harness.outcome import Outcome
from tests.benchmarks.speed.harness.topics import TARGETS

MET, MISSED, INK, FAINT = "#1b7f79", "#c8553d", "#222222", "#8a8a8a"
CURVES = ("#1b7f79", "#c8553d", "#3d5a98", "#b8860b", "#7d4f9e", "#5a5a5a")
MARKERS = "osD^vP"


def plot_outcomes(outcomes: list[Outcome], path: Path) -> None:
    """Write the plot as a PNG file. Outcomes without a goal or without a figure have no bar."""
    judged = [outcome for outcome in outcomes if outcome.verdict in ("met", "missed")]
    curved = [outcome for outcome in outcomes if outcome.curve]
    num_targets = len({outcome.target for outcome in judged})
    height = max(3.6, 1.3 + 0.44 * (len(judged) + num_targets))
    with matplotlib.rc_context(
        {"font.size": 10, "font.family": "DejaVu Sans", "axes.edgecolor": FAINT, "text.color": INK}
    ):
        figure = Figure(figsize=(16 if curved else 10.5, height), layout="constrained", dpi=130)
        panels = figure.subplots(
            1, 2 if curved else 1, squeeze=False, width_ratios=[1.55, 1] if curved else None
        )[0]
        plot_goals(panels[0], judged)
        if curved:
            plot_curves(panels[1], curved)
        figure.savefig(path)


def times_goal(outcome: Outcome) -> float:
    """Return 1 at the goal, 2 at half of an upper bound or at twice a lower bound."""
    assert outcome.goal is not None
    found = outcome.judged_figure
    assert found is not None
    value = outcome.goal.value
    return found / value if outcome.goal.bound == "at least" else value / found


def plot_goals(axes: Axes, judged: list[Outcome]) -> None:
    """Draw a bar per outcome from its goal: to the right if it is met, to the left if missed."""
    row, labels = 0, []
    for target, title in TARGETS.items():
        of_target = [outcome for outcome in judged if outcome.target == target]
        if of_target:
            labels.append((row, f"{target}  {title}", True))
        for outcome in of_target:
            row += 1
            labels.append((row, textwrap.shorten(outcome.what, 62, placeholder=" …"), False))
            plot_bar(axes, row, outcome)
        row += bool(of_target)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_xscale("log")
    best = max([2.0, *map(times_goal, judged)])
    worst = min([0.8, *map(times_goal, judged)])
    axes.set_xlim(worst / 1.7, best * 4.5)
    axes.set_ylim(row - 0.4, -0.7)
    axes.set_yticks([position for position, _, _ in labels], [text for _, text, _ in labels])
    for label, (_, _, is_title) in zip(axes.get_yticklabels(), labels, strict=True):
        label.set_fontweight("bold" if is_title else "normal")
        label.set_color(INK)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("distance from the goal: 1× meets it, more is better (log scale)")
    axes.set_title("Measured figures against their goals", loc="left", fontweight="bold", pad=12)
    axes.plot([], [], "o", color=MET, markersize=8, label="met")
    axes.plot([], [], "X", color=MISSED, markersize=9, label="missed")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)


def plot_bar(axes: Axes, row: int, outcome: Outcome) -> None:
    """Draw one bar with its figures at the end."""
    end, is_met = times_goal(outcome), outcome.verdict == "met"
    color = MET if is_met else MISSED
    axes.plot([1, end], [row, row], color=color, linewidth=7, alpha=0.35, solid_capstyle="butt")
    axes.plot([end], [row], "o" if is_met else "X", color=color, markersize=8 if is_met else 9)
    goal = outcome.goal
    assert goal is not None
    found = outcome.judged_figure
    sign = "≤" if goal.bound == "at most" else "≥"
    unit = f" {outcome.unit}" if goal.compared_with == "nothing" else ""
    other = {"peer": outcome.peer_name, "limit": "the limit", "nothing": ""}[goal.compared_with]
    of = f" of {textwrap.shorten(other, 28, placeholder=' …').rstrip(',')}" if other else ""
    text = f"{found:.3g}{unit}{of}  (goal {sign} {goal.value:g}{unit})"
    axes.annotate(
        text,
        (max(end, 1), row),
        (9, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=INK,
    )


def plot_curves(axes: Axes, curved: list[Outcome]) -> None:
    """Draw seconds against minutes of video, a line per outcome with a curve."""
    for number, outcome in enumerate(curved):
        minutes, seconds = zip(*sorted(outcome.curve.items()), strict=True)
        style = {"color": CURVES[number % len(CURVES)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(
            minutes,
            seconds,
            linewidth=2,
            markersize=6,
            label=textwrap.fill(outcome.what, 46),
            **style,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = sorted({minutes for outcome in curved for minutes in outcome.curve})
    axes.set_xticks(
        lengths,
        [f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h" for minutes in lengths],
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("length of the video (log scale)")
    axes.set_title("Cost against length", loc="left", fontweight="bold", pad=12)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
