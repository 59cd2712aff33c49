"""Draw a frame: a background, figures in their poses and props, as an RGB array."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_hour.synthetic.story import Actor, Background, Prop, cell_center

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
PATTERN_TONE = 0.78  # of a background's pattern, relative to its color
EDGE_TONE = 0.55  # of a prop's edge, relative to its color
NUM_STRIPES = 4  # also the number of dots or squares in a row
PROP_RADIUS = 0.165  # covers a large figure, and does not reach into the next cell
EYE_HEIGHT, EYE_RADIUS = 0.33, 0.2  # in units of a figure's radius; height above the center
FIGURE_EXTENT = 1.2  # distance of the farthest point of any shape, in units of its radius
PROP_EXTENT = 1.1


@dataclass(frozen=True)
class Pose:
    """Position and size of a figure, in fractions of the frame; `y` is measured from the top."""

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
    """Draw a frame `(size_pixels, size_pixels, 3)`.

    Later figures are drawn over earlier ones, and props over all figures.
    """
    picture = _draw_background(background, size_pixels).copy()  # (size, size, 3)
    for actor, pose in poses:
        _draw_actor(picture, actor, pose)
    for prop in props:
        rows, columns, mask, prop_picture = _draw_prop(prop, size_pixels)
        np.copyto(picture[rows, columns], prop_picture, where=mask)
    return picture


def _draw_actor(picture: Picture, actor: Actor, pose: Pose) -> None:
    """Draw a figure with smooth edges over a picture `(size, size, 3)`, in place."""
    size_pixels = len(picture)
    rows = _pixel_range(pose.y, FIGURE_EXTENT * pose.radius, size_pixels)
    columns = _pixel_range(pose.x, FIGURE_EXTENT * pose.radius, size_pixels)
    x = _pixel_centers(columns, size_pixels)[None, :] - pose.x  # (1, columns)
    y = _pixel_centers(rows, size_pixels)[:, None] - pose.y  # (rows, 1)
    angle = math.radians(pose.angle_degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    rotated_x = (x * cosine + y * sine) / pose.radius  # (rows, columns)
    rotated_y = (y * cosine - x * sine) / pose.radius  # (rows, columns)
    radius_pixels = pose.radius * size_pixels
    region = picture[rows, columns]  # (rows, columns, 3), a view
    distance = SIGNED_DISTANCES[actor.shape](rotated_x, rotated_y)  # (rows, columns)
    _fill(region, distance * radius_pixels, COLOR_RGB[actor.color])
    if actor.has_eye:
        eye_distance = np.hypot(rotated_x, rotated_y + EYE_HEIGHT) - EYE_RADIUS  # (rows, columns)
        eye_color = COLOR_RGB["white" if actor.color == "black" else "black"]
        _fill(region, eye_distance * radius_pixels, eye_color)


def _pixel_centers(pixels: slice, size_pixels: int) -> NDArray[np.float32]:
    """Return the centers `(pixels,)` of rows or columns, as fractions of the frame."""
    indices = np.arange(pixels.start, pixels.stop, dtype=np.float32)  # (pixels,)
    return (indices + np.float32(0.5)) / np.float32(size_pixels)


def _fill(picture: Picture, distance: Array, color: tuple[int, int, int]) -> None:
    """Fill a shape in `picture` `(rows, columns, 3)` with a color, anti-aliased, in place.

    Args:
        picture: to draw on.
        distance: signed distance `(rows, columns)` of each pixel from the edge, in pixels.
        color: RGB.
    """
    coverage = np.clip(0.5 - distance, 0, 1)[..., None]  # (rows, columns, 1)
    target = np.array(color, dtype=np.float32)  # (3,)
    picture[:] = np.rint(picture + coverage * (target - picture))  # (rows, columns, 3)


@lru_cache(maxsize=64)
def _draw_background(background: Background, size_pixels: int) -> Picture:
    """Draw an empty background `(size, size, 3)`."""
    color = np.array(COLOR_RGB[background.color], dtype=np.uint8)  # (3,)
    period = 1 / NUM_STRIPES
    centers = (np.arange(size_pixels) + 0.5) / size_pixels  # (size,)
    phase = centers % period / period  # (size,), in [0, 1)
    x, y = phase[None, :], phase[:, None]  # (1, size) and (size, 1)
    is_dark = {  # (size, size), or broadcastable to it
        "plain": np.zeros((1, 1), dtype=bool),
        "striped": y < 0.5,
        "dotted": np.hypot(x - 0.5, y - 0.5) < 0.28,
        "checked": (x < 0.5) != (y < 0.5),
    }[background.pattern]
    dark_color = (color * PATTERN_TONE).astype(np.uint8)  # (3,)
    mask = np.broadcast_to(is_dark, (size_pixels, size_pixels))[..., None]  # (size, size, 1)
    return np.where(mask, dark_color, color).astype(np.uint8)  # (size, size, 3)


@lru_cache(maxsize=256)
def _draw_prop(prop: Prop, size_pixels: int) -> tuple[slice, slice, NDArray[np.bool_], Picture]:
    """Draw a prop.

    Returns:
        Its rows and its columns in the frame, the mask `(rows, columns, 1)` of the pixels that it
        covers, and its picture `(rows, columns, 3)`.
    """
    center_x, center_y = cell_center(prop.cell)
    rows = _pixel_range(center_y, PROP_EXTENT * PROP_RADIUS, size_pixels)
    columns = _pixel_range(center_x, PROP_EXTENT * PROP_RADIUS, size_pixels)
    x = (np.arange(columns.start, columns.stop)[None, :] + 0.5) / size_pixels  # (1, columns)
    y = (np.arange(rows.start, rows.stop)[:, None] + 0.5) / size_pixels  # (rows, 1)
    x, y = (x - center_x) / PROP_RADIUS, (y - center_y) / PROP_RADIUS
    if prop.kind == "box":  # a square with two diagonal planks
        distance = np.maximum(np.abs(x), np.abs(y)) - 1  # (rows, columns)
        is_line = (np.abs(x - y) < 0.12) | (np.abs(x + y) < 0.12)  # (rows, columns)
    elif prop.kind == "rock":  # a disc with a flat bottom and a crack
        distance = np.maximum(np.hypot(x, y) - 1.02, y - 0.92)  # (rows, columns)
        is_line = (np.abs(x - y - 0.35) < 0.07) & (x > -0.2)  # (rows, columns)
    else:  # a bush with lobes and berries
        lobes = 0.05 * np.cos(7 * np.arctan2(y, x))  # (rows, columns)
        distance = np.hypot(x, y) - 1.02 - lobes  # (rows, columns)
        is_line = np.hypot((x % 0.5) - 0.25, (y % 0.5) - 0.25) < 0.1  # (rows, columns)
    color = np.array(PROP_RGB[prop.kind], dtype=np.float32)  # (3,)
    is_dark = ((distance > -0.14) | is_line)[..., None]  # (rows, columns, 1)
    picture = np.where(is_dark, EDGE_TONE * color, color).astype(np.uint8)  # (rows, columns, 3)
    return rows, columns, (distance <= 0)[..., None], picture


def _pixel_range(center: float, extent: float, size_pixels: int) -> slice:
    """Return the rows or columns within `extent` of a point, clipped to the frame."""
    first = min(size_pixels, max(0, math.floor((center - extent) * size_pixels)))
    last = max(first, min(size_pixels, math.ceil((center + extent) * size_pixels)))
    return slice(first, last)


# Signed distances of points `x`, `y` (broadcastable to `(rows, columns)`) from the edge of a shape
# of radius 1 around the origin: negative inside; `y` points down.


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1.0  # (rows, columns)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.82  # (rows, columns)


def _triangle(x: Array, y: Array) -> Array:
    sides = math.cos(math.pi / 6) * np.abs(x) - 0.5 * y  # (rows, columns)
    return np.maximum(sides, y) - 0.5  # (rows, columns)


def _star(x: Array, y: Array) -> Array:
    """Return the distance from a star of five points, the first of which is up.

    By symmetry the plane is folded into half of one point, whose edge is a straight line.
    """
    sector = 2 * math.pi / 5
    turn = np.arctan2(x, -y) + sector / 2  # (rows, columns)
    angle = np.abs(turn % sector - sector / 2)  # (rows, columns), 0 at a tip
    radius = np.hypot(x, y)  # (rows, columns)
    notch_along, notch_across = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    edge = notch_across * (radius * np.cos(angle) - 1.0)  # (rows, columns)
    edge = edge + (1.0 - notch_along) * radius * np.sin(angle)  # (rows, columns)
    return edge / math.hypot(notch_across, 1.0 - notch_along)  # (rows, columns)


def _cross(x: Array, y: Array) -> Array:
    longer = np.maximum(np.abs(x), np.abs(y))  # (rows, columns)
    shorter = np.minimum(np.abs(x), np.abs(y))  # (rows, columns)
    return np.maximum(longer - 1.0, shorter - 0.3)  # (rows, columns)


def _diamond(x: Array, y: Array) -> Array:
    """Return the distance from a diamond, narrow enough to differ from a rotated square."""
    return (np.abs(x) / 0.55 + np.abs(y) - 1.0) * 0.48  # (rows, columns)


SIGNED_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
}
