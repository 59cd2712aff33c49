"""A `Story` in, an H.264 mp4 out. It needs no torch, so that a process that only renders starts quickly."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lit_hour.errors import WorldError
from lit_hour.world.script import Scene, Story

Array = NDArray[np.floating]

RGB_OF_COLOUR = {
    "red": (225, 30, 30),
    "green": (25, 165, 50),
    "blue": (45, 70, 235),
    "yellow": (250, 215, 25),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
KEY_FRAME_SECONDS = 4
NEAR, FAR = 0.25, 0.75  # where moves begin and end, as shares of the frame
SMALL = 0.5  # size of an actor before it grows and after it has shrunk, as a share of its full size
DEGREES_PER_SECOND = 40.0  # looks different each second, and each fourth second, for every shape that spins
BLINK_SECONDS, SHOWN_SECONDS = 3.0, 2.0  # a cycle that neither one nor two nor four seconds between looks can miss


@dataclass(frozen=True)
class Pose:
    """Where an actor is and how large: `x`, `y` and `radius` as shares of the frame, `y` from the top."""

    x: float
    y: float
    radius: float
    angle_degrees: float = 0.0


def pose_at(scene: Scene, seconds: float) -> Pose | None:
    """The pose of the scene's actor at a time of the story, or None while it blinks."""
    x, y = scene.center
    radius = scene.actor.size / 2
    elapsed_seconds = seconds - scene.start_seconds
    progress = elapsed_seconds / (scene.end_seconds - scene.start_seconds)
    rising, falling = NEAR + (FAR - NEAR) * progress, FAR - (FAR - NEAR) * progress
    match scene.action:
        case "moves left":
            return Pose(falling, y, radius)
        case "moves right":
            return Pose(rising, y, radius)
        case "moves up":
            return Pose(x, falling, radius)
        case "moves down":
            return Pose(x, rising, radius)
        case "spins":
            return Pose(x, y, radius, angle_degrees=elapsed_seconds * DEGREES_PER_SECOND)
        case "grows":
            return Pose(x, y, radius * (SMALL + (1 - SMALL) * progress))
        case "shrinks":
            return Pose(x, y, radius * (1 - (1 - SMALL) * progress))
        case "blinks":
            return Pose(x, y, radius) if elapsed_seconds % BLINK_SECONDS < SHOWN_SECONDS else None
        case "stands still":
            return Pose(x, y, radius)
    raise WorldError(f"nothing here draws the action {scene.action!r} of the scene at {scene.start_seconds} s")


def draw_scene(scene: Scene, pose: Pose | None, size_pixels: int) -> NDArray[np.uint8]:
    """The picture `(size_pixels, size_pixels, 3)` of a scene with its actor in a pose, RGB with smooth edges."""
    background = np.array(RGB_OF_COLOUR[scene.background], dtype=np.uint8)  # (3,)
    picture = np.tile(background, (size_pixels, size_pixels, 1))  # (height, width, 3)
    if pose is None:
        return picture
    reach = 1.2 * pose.radius  # the corners of the square are the farthest points of any shape
    rows = _pixels_within(pose.y, reach, size_pixels)
    columns = _pixels_within(pose.x, reach, size_pixels)
    x = (np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5) / size_pixels - pose.x  # (1, columns)
    y = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5) / size_pixels - pose.y  # (rows, 1)
    cosine, sine = math.cos(math.radians(pose.angle_degrees)), math.sin(math.radians(pose.angle_degrees))
    along, across = (x * cosine + y * sine) / pose.radius, (y * cosine - x * sine) / pose.radius  # (rows, columns) each
    distance = OUTLINES[scene.actor.shape](along, across) * (pose.radius * size_pixels)  # (rows, columns) in pixels
    coverage = np.clip(0.5 - distance, 0, 1)[..., None]  # (rows, columns, 1)
    colour = np.array(RGB_OF_COLOUR[scene.actor.colour], dtype=np.float32)  # (3,)
    picture[rows, columns] = np.rint(background + coverage * (colour - background))  # (rows, columns, 3)
    return picture


def render_story(story: Story, path: Path, size_pixels: int, frames_per_second: int) -> None:
    """Write the story as a square video; `path` appears only when the whole video is in it.

    Raises:
        WorldError: the size is odd, which H.264 with half the colour resolution cannot hold, or the file cannot be written.
    """
    if size_pixels % 2:
        raise WorldError(f"world.size_pixels is {size_pixels}: it has to be even, as H.264 wants it")
    unfinished = path.with_name(path.name + ".part")
    try:
        _encode(_pictures(story, size_pixels, frames_per_second), unfinished, size_pixels, frames_per_second)
        os.replace(unfinished, path)
    except OSError as error:
        raise WorldError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _pictures(story: Story, size_pixels: int, frames_per_second: int) -> Iterator[NDArray[np.uint8]]:
    """One picture `(size_pixels, size_pixels, 3)` for each frame; one that has not changed is not drawn again."""
    num_frames = max(1, round(story.duration_seconds * frames_per_second))
    scenes = iter(story.scenes)
    scene = drawn_scene = next(scenes)
    drawn_pose = pose_at(scene, 0.0)
    picture = draw_scene(scene, drawn_pose, size_pixels)  # (height, width, 3)
    for index in range(num_frames):
        seconds = index / frames_per_second
        while seconds >= scene.end_seconds:
            scene = next(scenes)
        pose = pose_at(scene, seconds)
        if (scene, pose) != (drawn_scene, drawn_pose):
            picture = draw_scene(scene, pose, size_pixels)  # (height, width, 3)
            drawn_scene, drawn_pose = scene, pose
        yield picture


def _encode(pictures: Iterator[NDArray[np.uint8]], path: Path, size_pixels: int, frames_per_second: int) -> None:
    """Encode on one thread: videos are made side by side instead."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width = stream.height = size_pixels
        stream.pix_fmt = "yuv420p"
        stream.gop_size = KEY_FRAME_SECONDS * frames_per_second
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast"}
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pixels_within(center: float, reach: float, size_pixels: int) -> slice:
    """The rows or columns that an actor can touch, cut at the edges of the frame."""
    first = max(0, math.floor((center - reach) * size_pixels))
    return slice(first, min(size_pixels, math.ceil((center + reach) * size_pixels)))


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
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)  # (rows, columns) 0 at a tip
    radius = np.hypot(x, y)  # (rows, columns)
    notch_along, notch_across = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    edge = notch_across * (radius * np.cos(angle) - 1.0) + (1.0 - notch_along) * radius * np.sin(angle)  # (rows, columns)
    return edge / math.hypot(notch_across, 1.0 - notch_along)  # (rows, columns)


def _cross(x: Array, y: Array) -> Array:
    longer, shorter = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))  # (rows, columns) each
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
