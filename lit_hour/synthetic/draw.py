"""Numbers in, charts as inline SVG out: what a page can show that asks nobody for anything.

Words in, pixels out: the picture of a background with its props, and of figures in their poses on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

import numpy as np
from numpy.typing import NDArray

from lit_hour.synthetic.story import Actor, Background, Prop, cell_center

CHART_COLORS = ("#3b6fb6", "#e08a2e")
WIDTH, ROW_HEIGHT, LABEL_WIDTH = 900, 18, 260
NUM_BINS, HISTOGRAM_HEIGHT = 20, 180


def draw_bars(bars: Sequence[tuple[str, Sequence[int]]], legend: Sequence[str]) -> str:
    """A row for each label, with a bar for each entry of the legend, one behind the other."""
    longest = max((sum(values) for _, values in bars), default=0) or 1
    scale = (WIDTH - LABEL_WIDTH - 60) / longest
    parts = [
        _text(LABEL_WIDTH + 150 * i, 12, words, fill=CHART_COLORS[i])
        for i, words in enumerate(legend)
    ]
    for row, (label, values) in enumerate(bars, start=1):
        y, x = row * ROW_HEIGHT, float(LABEL_WIDTH)
        parts.append(_text(LABEL_WIDTH - 8, y + 13, label, anchor="end"))
        for colour, value in zip(CHART_COLORS, values, strict=True):
            parts.append(_bar(x, y + 2, value * scale, ROW_HEIGHT - 4, colour))
            x += value * scale
        parts.append(_text(x + 5, y + 13, str(sum(values))))
    return _svg((len(bars) + 1) * ROW_HEIGHT + 4, parts)


def draw_histogram(values: Sequence[float], unit: str, counted: str) -> str:
    """How many values lie in each of equal ranges, with the first and the last edge and the highest count written on."""
    low, high = min(values), max(values)
    counts, edges = np.histogram(
        values, bins=NUM_BINS, range=(low, high) if high > low else (low - 0.5, high + 0.5)
    )
    top, width = int(counts.max()), (WIDTH - 40) / NUM_BINS
    parts = []
    for index, count in enumerate(counts):
        height = count / top * (HISTOGRAM_HEIGHT - 45)
        parts.append(
            _bar(
                20 + index * width,
                HISTOGRAM_HEIGHT - 25 - height,
                width - 2,
                height,
                CHART_COLORS[0],
            )
        )
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
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )


Array = NDArray[np.floating]
Picture = NDArray[np.uint8]  # (size, size, 3), RGB

COLOR_RGB = {
    "red": (225, 30, 30),
    "green": (25, 165, 50),
    "blue": (45, 70, 235),
    "yellow": (250, 215, 25),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "grey": (135, 135, 135),
    "brown": (125, 85, 50),
    "pink": (245, 165, 190),
    "orange": (240, 135, 30),
    "purple": (135, 65, 165),
    "turquoise": (60, 195, 195),
}
PROP_RGB = {"box": (205, 165, 115), "rock": (100, 105, 115), "bush": (95, 115, 40)}
DARKER = 0.78  # tone of the pattern of a background
EDGE = 0.55  # tone of the edge of a prop
NUM_STRIPES = 4  # and dots or squares in a row, of the darker tone
PROP_RADIUS = 0.165  # covers a large figure, and leaves the next place free
EYE_UP, EYE_RADIUS = 0.33, 0.2  # as shares of a figure's radius


@dataclass(frozen=True)
class Pose:
    """Where a figure is and how large: `x`, `y` and `radius` as shares of the frame, `y` from the top."""

    x: float
    y: float
    radius: float
    angle_degrees: float = 0.0


def draw_picture(
    background: Background,
    props: tuple[Prop, ...],
    poses: Sequence[tuple[Actor, Pose]],
    size_pixels: int,
) -> Picture:
    """A picture `(size_pixels, size_pixels, 3)` of figures, the later ones in front, and of props in front of them all."""
    picture = _backdrop(background, size_pixels).copy()  # (height, width, 3)
    for actor, pose in poses:
        _draw_actor(picture, actor, pose)
    for prop in props:
        rows, columns, covered, drawn = _prop(prop, size_pixels)
        np.copyto(picture[rows, columns], drawn, where=covered)
    return picture


def _draw_actor(picture: Picture, actor: Actor, pose: Pose) -> None:
    """Lay a figure over a picture `(size, size, 3)`, with smooth edges."""
    size_pixels = len(picture)
    reach = 1.2 * pose.radius  # the corners of the square are the farthest points of any shape
    rows = _pixels_within(pose.y, reach, size_pixels)
    columns = _pixels_within(pose.x, reach, size_pixels)
    x = (
        np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5
    ) / size_pixels - pose.x  # (1, columns)
    y = (
        np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
    ) / size_pixels - pose.y  # (rows, 1)
    cosine, sine = (
        math.cos(math.radians(pose.angle_degrees)),
        math.sin(math.radians(pose.angle_degrees)),
    )
    along, across = (
        (x * cosine + y * sine) / pose.radius,
        (y * cosine - x * sine) / pose.radius,
    )  # (rows, columns) each
    radius_pixels = pose.radius * size_pixels
    _paint(
        picture[rows, columns],
        OUTLINES[actor.shape](along, across) * radius_pixels,
        COLOR_RGB[actor.color],
    )
    if actor.has_eye:
        eye = np.hypot(along, across + EYE_UP) - EYE_RADIUS  # (rows, columns)
        _paint(
            picture[rows, columns],
            eye * radius_pixels,
            COLOR_RGB["white" if actor.color == "black" else "black"],
        )


def _paint(picture: Picture, distance: Array, colour: tuple[int, int, int]) -> None:
    """Colour the pixels of `picture` `(rows, columns, 3)` by their `distance` `(rows, columns)` in pixels from an edge."""
    coverage = np.clip(0.5 - distance, 0, 1)[..., None]  # (rows, columns, 1)
    picture[:] = np.rint(
        picture + coverage * (np.array(colour, dtype=np.float32) - picture)
    )  # (rows, columns, 3)


@lru_cache(maxsize=64)
def _backdrop(background: Background, size_pixels: int) -> Picture:
    """The picture `(size, size, 3)` of a background without anything on it."""
    colour = np.array(COLOR_RGB[background.color], dtype=np.uint8)  # (3,)
    period = 1 / NUM_STRIPES
    x = (
        (np.arange(size_pixels)[None, :] + 0.5) / size_pixels % period / period
    )  # (1, width) place in the period
    y = (np.arange(size_pixels)[:, None] + 0.5) / size_pixels % period / period  # (height, 1)
    is_dark = {  # (height, width), or what broadcasts to it
        "plain": np.zeros((1, 1), dtype=bool),
        "striped": y < 0.5,
        "dotted": np.hypot(x - 0.5, y - 0.5) < 0.28,
        "checked": (x < 0.5) != (y < 0.5),
    }[background.pattern]
    darker = (colour * DARKER).astype(np.uint8)  # (3,)
    dark = np.broadcast_to(is_dark, (size_pixels, size_pixels))[..., None]  # (height, width, 1)
    return np.where(dark, darker, colour).astype(np.uint8)  # (height, width, 3)


@lru_cache(maxsize=256)
def _prop(prop: Prop, size_pixels: int) -> tuple[slice, slice, NDArray[np.bool_], Picture]:
    """Rows and columns of a prop, which of its pixels `(rows, columns, 1)` cover what is behind, and their colours."""
    center_x, center_y = cell_center(prop.cell)
    rows = _pixels_within(center_y, 1.1 * PROP_RADIUS, size_pixels)
    columns = _pixels_within(center_x, 1.1 * PROP_RADIUS, size_pixels)
    x = (
        (np.arange(columns.start, columns.stop)[None, :] + 0.5) / size_pixels - center_x
    ) / PROP_RADIUS  # (1, columns)
    y = (
        (np.arange(rows.start, rows.stop)[:, None] + 0.5) / size_pixels - center_y
    ) / PROP_RADIUS  # (rows, 1)
    if prop.kind == "box":
        distance = np.maximum(np.abs(x), np.abs(y)) - 1  # (rows, columns)
        is_line = (np.abs(x - y) < 0.12) | (
            np.abs(x + y) < 0.12
        )  # (rows, columns) two planks across
    elif prop.kind == "rock":
        distance = np.maximum(
            np.hypot(x, y) - 1.02, y - 0.92
        )  # (rows, columns) a disc that lies on its flat side
        is_line = (np.abs(x - y - 0.35) < 0.07) & (x > -0.2)  # (rows, columns) a crack
    else:
        lobes = 0.05 * np.cos(7 * np.arctan2(y, x))  # (rows, columns)
        distance = np.hypot(x, y) - 1.02 - lobes  # (rows, columns)
        is_line = np.hypot((x % 0.5) - 0.25, (y % 0.5) - 0.25) < 0.1  # (rows, columns) berries
    colour = np.array(PROP_RGB[prop.kind], dtype=np.float32)  # (3,)
    dark = ((distance > -0.14) | is_line)[..., None]  # (rows, columns, 1)
    drawn = np.where(dark, EDGE * colour, colour).astype(np.uint8)  # (rows, columns, 3)
    return rows, columns, (distance <= 0)[..., None], drawn


def _pixels_within(center: float, reach: float, size_pixels: int) -> slice:
    """The rows or columns within reach of a point, cut at the edges of the frame; none when it is outside."""
    first = min(size_pixels, max(0, math.floor((center - reach) * size_pixels)))
    return slice(first, max(first, min(size_pixels, math.ceil((center + reach) * size_pixels))))


# Outlines: the distance of points `x`, `y` to the edge of a shape of radius 1 around 0, negative inside, `y` downwards.


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1.0  # (rows, columns)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.82  # (rows, columns)


def _triangle(x: Array, y: Array) -> Array:
    sides = math.cos(math.pi / 6) * np.abs(x) - 0.5 * y  # (rows, columns)
    return np.maximum(sides, y) - 0.5  # (rows, columns)


def _star(x: Array, y: Array) -> Array:
    """Five points, the first upwards: fold the plane into one half of one point, whose edge is a straight line."""
    sector = 2 * math.pi / 5
    angle = np.abs(
        (np.arctan2(x, -y) + sector / 2) % sector - sector / 2
    )  # (rows, columns) 0 at a tip
    radius = np.hypot(x, y)  # (rows, columns)
    notch_along, notch_across = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    edge = notch_across * (radius * np.cos(angle) - 1.0) + (1.0 - notch_along) * radius * np.sin(
        angle
    )  # (rows, columns)
    return edge / math.hypot(notch_across, 1.0 - notch_along)  # (rows, columns)


def _cross(x: Array, y: Array) -> Array:
    longer, shorter = (
        np.maximum(np.abs(x), np.abs(y)),
        np.minimum(np.abs(x), np.abs(y)),
    )  # (rows, columns) each
    return np.maximum(longer - 1.0, shorter - 0.3)  # (rows, columns)


def _diamond(x: Array, y: Array) -> Array:
    """Narrow, so that a square that spins is never one."""
    return (np.abs(x) / 0.55 + np.abs(y) - 1.0) * 0.48  # (rows, columns)


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
}
