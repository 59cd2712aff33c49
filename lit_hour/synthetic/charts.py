"""Draw bar charts and histograms as inline SVG, for self-contained pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

CHART_COLORS = ("#3b6fb6", "#e08a2e")
WIDTH, ROW_HEIGHT, LABEL_WIDTH = 900, 18, 260  # pixels
NUM_BINS, HISTOGRAM_HEIGHT = 20, 180


def draw_bars(bars: Sequence[tuple[str, Sequence[int]]], legend: Sequence[str]) -> str:
    """Draw a stacked horizontal bar for each label.

    Args:
        bars: label of each row, and its values in the order of `legend`.
        legend: name of each color.
    """
    longest = max((sum(values) for _, values in bars), default=0) or 1
    scale = (WIDTH - LABEL_WIDTH - 60) / longest
    parts = [
        _text(LABEL_WIDTH + 150 * index, 12, name, fill=CHART_COLORS[index])
        for index, name in enumerate(legend)
    ]
    for row, (label, values) in enumerate(bars, start=1):
        y, x = row * ROW_HEIGHT, float(LABEL_WIDTH)
        parts.append(_text(LABEL_WIDTH - 8, y + 13, label, anchor="end"))
        for color, value in zip(CHART_COLORS, values, strict=True):
            parts.append(_bar(x, y + 2, value * scale, ROW_HEIGHT - 4, color))
            x += value * scale
        parts.append(_text(x + 5, y + 13, str(sum(values))))
    return _svg((len(bars) + 1) * ROW_HEIGHT + 4, parts)


def draw_histogram(values: Sequence[float], unit: str, item_name: str) -> str:
    """Draw a histogram of equal bins, labeled with its range and its highest count.

    Args:
        values: to count.
        unit: of the values.
        item_name: what is counted, in the plural.
    """
    low, high = min(values), max(values)
    limits = (low, high) if high > low else (low - 0.5, high + 0.5)
    counts, edges = np.histogram(values, bins=NUM_BINS, range=limits)  # (bins,) and (bins + 1,)
    highest, width = int(counts.max()), (WIDTH - 40) / NUM_BINS
    baseline = HISTOGRAM_HEIGHT - 25
    parts = []
    for index, count in enumerate(counts):
        height = count / highest * (HISTOGRAM_HEIGHT - 45)
        x = 20 + index * width
        parts.append(_bar(x, baseline - height, width - 2, height, CHART_COLORS[0]))
    label_y = HISTOGRAM_HEIGHT - 8
    parts.append(_text(20, label_y, f"{edges[0]:.1f} {unit}"))
    parts.append(_text(WIDTH - 20, label_y, f"{edges[-1]:.1f} {unit}", anchor="end"))
    parts.append(_text(20, 13, f"highest bar: {highest} {item_name}"))
    return _svg(HISTOGRAM_HEIGHT, parts)


def _svg(height: int, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" font-family="sans-serif" font-size="12"'
        f' role="img">{"".join(parts)}</svg>'
    )


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
        f' fill="{color}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
    )
