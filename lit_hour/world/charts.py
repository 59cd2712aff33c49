"""Numbers in, charts as inline SVG out: what a page can show that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

COLOURS = ("#3b6fb6", "#e08a2e")
WIDTH, ROW_HEIGHT, LABEL_WIDTH = 900, 18, 260
NUM_BINS, HISTOGRAM_HEIGHT = 20, 180


def draw_bars(bars: Sequence[tuple[str, Sequence[int]]], legend: Sequence[str]) -> str:
    """A row for each label, with a bar for each entry of the legend, one behind the other."""
    longest = max((sum(values) for _, values in bars), default=0) or 1
    scale = (WIDTH - LABEL_WIDTH - 60) / longest
    parts = [_text(LABEL_WIDTH + 150 * i, 12, words, fill=COLOURS[i]) for i, words in enumerate(legend)]
    for row, (label, values) in enumerate(bars, start=1):
        y, x = row * ROW_HEIGHT, float(LABEL_WIDTH)
        parts.append(_text(LABEL_WIDTH - 8, y + 13, label, anchor="end"))
        for colour, value in zip(COLOURS, values, strict=True):
            parts.append(_bar(x, y + 2, value * scale, ROW_HEIGHT - 4, colour))
            x += value * scale
        parts.append(_text(x + 5, y + 13, str(sum(values))))
    return _svg((len(bars) + 1) * ROW_HEIGHT + 4, parts)


def draw_histogram(values: Sequence[float], unit: str, counted: str) -> str:
    """How many values lie in each of equal ranges, with the first and the last edge and the highest count written on."""
    low, high = min(values), max(values)
    counts, edges = np.histogram(values, bins=NUM_BINS, range=(low, high) if high > low else (low - 0.5, high + 0.5))
    top, width = int(counts.max()), (WIDTH - 40) / NUM_BINS
    parts = []
    for index, count in enumerate(counts):
        height = count / top * (HISTOGRAM_HEIGHT - 45)
        parts.append(_bar(20 + index * width, HISTOGRAM_HEIGHT - 25 - height, width - 2, height, COLOURS[0]))
    parts.append(_text(20, HISTOGRAM_HEIGHT - 8, f"{edges[0]:.1f} {unit}"))
    parts.append(_text(WIDTH - 20, HISTOGRAM_HEIGHT - 8, f"{edges[-1]:.1f} {unit}", anchor="end"))
    parts.append(_text(20, 13, f"at most {top} {counted} in a bar"))
    return _svg(HISTOGRAM_HEIGHT, parts)


def _svg(height: int, parts: list[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" font-family="sans-serif" font-size="12" role="img">'
    return head + "".join(parts) + "</svg>"


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", fill: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
