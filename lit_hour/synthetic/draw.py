"""Draw a frame: a background, figures in their poses and props, as an RGBA array.

Four bytes a pixel, so that NumPy fills a shape by writing one 32-bit number per pixel.
"""

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
Canvas = NDArray[np.uint8]  # (size, size, 4), RGBA with an alpha of 255
PackedPixels = NDArray[np.uint32]  # (size, size), a canvas with the four bytes of a pixel as one

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
    """Draw a frame `(size_pixels, size_pixels, 3)` in RGB, see `draw_canvas`."""
    canvas = draw_canvas(background, props, poses, size_pixels)  # (size, size, 4)
    return np.ascontiguousarray(canvas[..., :3])  # (size, size, 3)


def draw_canvas(
    background: Background,
    props: tuple[Prop, ...],
    poses: Sequence[tuple[Actor, Pose]],
    size_pixels: int,
) -> Canvas:
    """Draw a frame `(size_pixels, size_pixels, 4)` in RGBA.

    Later figures are drawn over earlier ones, and props over all figures.
    """
    canvas = _draw_background(background, size_pixels).copy()  # (size, size, 4)
    pixels = canvas.view(np.uint32)[..., 0]  # (size, size)
    for actor, pose in poses:
        _draw_actor(pixels, actor, pose)
    for prop in props:
        rows, columns, mask, prop_pixels = _draw_prop(prop, size_pixels)
        np.copyto(pixels[rows, columns], prop_pixels, where=mask)
    return canvas


def _draw_actor(pixels: PackedPixels, actor: Actor, pose: Pose) -> None:
    """Draw a figure with smooth edges over `pixels` `(size, size)`, in place."""
    size_pixels = len(pixels)
    rows = _pixel_range(pose.y, FIGURE_EXTENT * pose.radius, size_pixels)
    columns = _pixel_range(pose.x, FIGURE_EXTENT * pose.radius, size_pixels)
    centers = _pixel_centers(size_pixels)  # (size,)
    x = centers[None, columns] - pose.x  # (1, columns)
    y = centers[rows, None] - pose.y  # (rows, 1)
    if pose.angle_degrees:
        angle = math.radians(pose.angle_degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        x, y = x * cosine + y * sine, y * cosine - x * sine  # (rows, columns)
    x, y = x / pose.radius, y / pose.radius  # broadcastable to (rows, columns)
    radius_pixels = pose.radius * size_pixels
    region = pixels[rows, columns]  # (rows, columns), a view
    distance = SIGNED_DISTANCES[actor.shape](x, y)  # (rows, columns)
    _fill(region, distance * radius_pixels, actor.color)
    if actor.has_eye:
        eye_distance = np.hypot(x, y + EYE_HEIGHT) - EYE_RADIUS  # (rows, columns)
        eye_color = "white" if actor.color == "black" else "black"
        _fill(region, eye_distance * radius_pixels, eye_color)


@lru_cache(maxsize=8)
def _pixel_centers(size_pixels: int) -> NDArray[np.float32]:
    """Return the centers `(size,)` of rows or columns, as fractions of the frame."""
    indices = np.arange(size_pixels, dtype=np.float32)  # (size,)
    return (indices + np.float32(0.5)) / np.float32(size_pixels)


def _fill(pixels: PackedPixels, distance: Array, color: str) -> None:
    """Fill a shape in `pixels` `(rows, columns)` with a color, anti-aliased, in place.

    Colors are mixed only at the edge: pixels inside are overwritten, those outside are not touched.

    Args:
        pixels: to draw on.
        distance: signed distance `(rows, columns)` of each pixel from the edge, in pixels.
        color: a name in `COLOR_RGB`.
    """
    is_inside = distance <= -0.5  # (rows, columns)
    np.copyto(pixels, _pack_color(color), where=is_inside)
    rows, columns = np.nonzero((distance < 0.5) ^ is_inside)  # (edge,) each
    coverage = (0.5 - distance[rows, columns])[:, None]  # (edge, 1)
    edge = pixels[rows, columns].view(np.uint8).reshape(-1, 4)  # (edge, 4)
    mixed = np.rint(edge + coverage * (_rgba(color).astype(np.float32) - edge))  # (edge, 4)
    pixels[rows, columns] = mixed.astype(np.uint8).view(np.uint32)[:, 0]  # (edge,)


def _rgba(color: str) -> NDArray[np.uint8]:
    """Return a color of `COLOR_RGB` `(4,)`, opaque."""
    return np.array([*COLOR_RGB[color], 255], dtype=np.uint8)  # (4,)


@lru_cache(maxsize=len(COLOR_RGB))
def _pack_color(color: str) -> np.uint32:
    """Return the four bytes of a color as one number."""
    return _rgba(color).view(np.uint32)[0]


@lru_cache(maxsize=64)
def _draw_background(background: Background, size_pixels: int) -> Canvas:
    """Draw an empty background `(size, size, 4)`."""
    color = _rgba(background.color)  # (4,)
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
    dark_color = color.copy()  # (4,)
    dark_color[:3] = PATTERN_TONE * color[:3]
    mask = np.broadcast_to(is_dark, (size_pixels, size_pixels))[..., None]  # (size, size, 1)
    return np.where(mask, dark_color, color)  # (size, size, 4)


@lru_cache(maxsize=256)
def _draw_prop(
    prop: Prop, size_pixels: int
) -> tuple[slice, slice, NDArray[np.bool_], PackedPixels]:
    """Draw a prop.

    Returns:
        Its rows and its columns in the frame, the mask `(rows, columns)` of the pixels that it
        covers, and its pixels `(rows, columns)`.
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
    color = np.array([*PROP_RGB[prop.kind], 255], dtype=np.float32)  # (4,)
    edge_color = color.copy()  # (4,)
    edge_color[:3] *= EDGE_TONE
    is_dark = ((distance > -0.14) | is_line)[..., None]  # (rows, columns, 1)
    picture = np.where(is_dark, edge_color, color).astype(np.uint8)  # (rows, columns, 4)
    return rows, columns, distance <= 0, picture.view(np.uint32)[..., 0]


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
