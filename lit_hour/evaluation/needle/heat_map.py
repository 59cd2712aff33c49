"""Draw the accuracy of a needle test by length and depth: `draw_heat_map`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lit_hour.evaluation.needle.cells import Cell
from lit_hour.io.atomic import atomic_path
from lit_hour.text.timestamp import format_timestamp

DOTS_PER_INCH = 120


def draw_heat_map(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Write a PNG with a column for each length and a row for each depth.

    Each cell has the share of correct answers, its 95% interval (Wilson) and the number of answers.
    """
    figure = plot_heat_map(cells, title)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=DOTS_PER_INCH, format="png")


def plot_heat_map(cells: Sequence[Cell], title: str) -> Figure:
    """Plot the heat map."""
    lengths = sorted({cell.length_seconds for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    accuracy = np.full((len(depths), len(lengths)), np.nan)  # (depths, lengths)
    figure = Figure(
        figsize=(3.2 + 1.25 * len(lengths), 2.0 + 0.55 * len(depths)), layout="constrained"
    )
    axes = figure.subplots()
    for cell in cells:
        row, column = depths.index(cell.depth), lengths.index(cell.length_seconds)
        accuracy[row, column] = cell.accuracy
        low, high = cell.interval
        text = f"{cell.accuracy:.0%} of {cell.num_answers}\n{low:.0%} to {high:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8)
    heat = axes.imshow(accuracy, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(lengths)), [format_timestamp(length) for length in lengths])
    axes.set_xlabel("length of the video")
    axes.set_yticks(range(len(depths)), [f"{depth:.4g}" for depth in np.multiply(depths, 100)])
    axes.set_ylabel("depth of the needle, % of the video")
    figure.colorbar(heat, format=lambda share, _: f"{share:.0%}")
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
