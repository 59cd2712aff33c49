"""Render a story to an H.264 video with `render_story`.

This module must not import torch, so that rendering processes start fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from lit_hour.errors import SyntheticDataError
from lit_hour.io.atomic import atomic_path
from lit_hour.synthetic.draw import Canvas, Picture, Pose, draw_canvas, draw_picture
from lit_hour.synthetic.story import SOLO_VERBS, Actor, Appearance, Scene, Story

KEY_FRAME_SECONDS = 4
SMALL_SCALE = 0.5  # of a figure before it grows and after it has shrunk
# Periods are chosen so that sampling every 1, 2 or 4 seconds shows the change.
DEGREES_PER_SECOND = 40.0
BLINK_PERIOD_SECONDS, BLINK_VISIBLE_SECONDS = 3.0, 2.0
BOUNCE_PERIOD_SECONDS, BOUNCE_HEIGHT = 1.6, 0.06
PATH_VERBS = {  # shown by the path of the appearance alone
    *("stands still", "enters", "returns", "leaves", "touches", "pushes", "hides", "comes out"),
    *SOLO_VERBS,
}


def render_story(story: Story, path: Path, size_pixels: int, frames_per_second: int) -> None:
    """Write a story as a square video, atomically.

    Raises:
        SyntheticDataError: the size is odd, which H.264 with subsampled color does not support, or
            the file cannot be written.
    """
    if size_pixels % 2:
        raise SyntheticDataError(
            f"synthetic.image_size is {size_pixels}. H.264 requires an even size."
        )
    try:
        with atomic_path(path) as unfinished:
            pictures = _draw_frames(story, size_pixels, frames_per_second)
            _encode(pictures, unfinished, size_pixels, frames_per_second)
    except OSError as error:
        raise SyntheticDataError(f"Cannot write {path}: {error}") from error


def draw_frame(story: Story, seconds: float, size_pixels: int) -> Picture:
    """Draw the frame `(size_pixels, size_pixels, 3)` at a time of the story."""
    scene = story.scene_at(seconds)
    return draw_picture(scene.background, scene.props, poses_at(scene, seconds), size_pixels)


def poses_at(scene: Scene, seconds: float) -> tuple[tuple[Actor, Pose], ...]:
    """Return the visible figures at a time, and their poses.

    The acting figure comes last, so that it is drawn in front.
    """
    action = scene.action_at(seconds)
    appearances = [item for item in scene.appearances if item.is_present_at(seconds)]
    appearances.sort(key=lambda item: action is not None and item.actor == action.actor)
    poses = ((item.actor, pose_at(scene, item, seconds)) for item in appearances)
    return tuple((actor, pose) for actor, pose in poses if pose is not None)


def pose_at(scene: Scene, appearance: Appearance, seconds: float) -> Pose | None:
    """Return the pose of a figure at a time, or None while it is invisible (blinking or hidden).

    Raises:
        SyntheticDataError: the verb of its action is unknown.
    """
    if appearance.is_hidden_at(seconds):
        return None
    x, y = appearance.position_at(seconds)
    radius = appearance.actor.size / 2
    action = scene.action_at(seconds)
    if action is None or action.actor != appearance.actor:
        return Pose(x, y, radius)
    elapsed = seconds - action.start_seconds
    progress = elapsed / (action.end_seconds - action.start_seconds)
    match action.verb:
        case "spins":
            return Pose(x, y, radius, angle_degrees=elapsed * DEGREES_PER_SECOND)
        case "grows":
            return Pose(x, y, radius * (SMALL_SCALE + (1 - SMALL_SCALE) * progress))
        case "shrinks":
            return Pose(x, y, radius * (1 - (1 - SMALL_SCALE) * progress))
        case "blinks":
            is_visible = elapsed % BLINK_PERIOD_SECONDS < BLINK_VISIBLE_SECONDS
            return Pose(x, y, radius) if is_visible else None
        case "bounces":
            height = BOUNCE_HEIGHT * abs(math.sin(math.pi * elapsed / BOUNCE_PERIOD_SECONDS))
            return Pose(x, y - height, radius)
        case verb if verb in PATH_VERBS:
            return Pose(x, y, radius)
    raise SyntheticDataError(
        f"Cannot draw the verb {action.verb!r} of the action at {action.start_seconds} s."
    )


def _draw_frames(story: Story, size_pixels: int, frames_per_second: int) -> Iterator[Canvas]:
    """Yield one canvas `(size_pixels, size_pixels, 4)` per frame; an unchanged one is reused."""
    num_frames = max(1, round(story.duration_seconds * frames_per_second))
    scenes = iter(story.scenes)
    scene, drawn_poses = next(scenes), None
    for index in range(num_frames):
        seconds = index / frames_per_second
        while seconds >= scene.end_seconds:
            scene, drawn_poses = next(scenes), None
        poses = poses_at(scene, seconds)
        if poses != drawn_poses:
            canvas = draw_canvas(scene.background, scene.props, poses, size_pixels)
            drawn_poses = poses
        yield canvas


def _encode(
    canvases: Iterator[Canvas], path: Path, size_pixels: int, frames_per_second: int
) -> None:
    """Write frames as an MP4 file; single-threaded, as videos are rendered in parallel.

    Each canvas is converted to YUV once, by one converter: FFmpeg takes longer to set up a
    conversion than to convert a small frame.
    """
    converter, converted = VideoReformatter(), None
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width = stream.height = size_pixels
        stream.pix_fmt = "yuv420p"
        stream.gop_size = KEY_FRAME_SECONDS * frames_per_second
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast"}
        for index, canvas in enumerate(canvases):
            if canvas is not converted:
                rgba = av.VideoFrame.from_numpy_buffer(canvas, format="rgba")
                frame = converter.reformat(rgba, format="yuv420p", threads=1)
                converted = canvas
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
