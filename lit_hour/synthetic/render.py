"""Stories and paths in, mp4 files out: several at once. It needs no torch, which each process would load again.

A `Story` in, an H.264 mp4 out. It needs no torch, so that a process that only renders starts quickly."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

import av
from tqdm import tqdm

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.draw import Picture, Pose, draw_picture
from lit_hour.synthetic.story import SOLO_VERBS, Actor, Appearance, Scene, Story

TURNS_AHEAD = 2  # stories that are written for each process, one of which it renders


def render_stories(
    videos: Iterable[tuple[Story, Path]],
    num_videos: int,
    size_pixels: int,
    frames_per_second: int,
    num_workers: int,
) -> None:
    """Render each story to its path, `num_workers` of them side by side, the first ones first.

    A story is taken from `videos` when its turn is near, so that any number of them needs the memory of a few.

    Raises:
        SyntheticDataError: a video cannot be written, or one of the processes was killed; what is finished by then stays.
    """
    if not num_videos:
        return
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(min(num_workers, num_videos), context, initializer=_end_with_parent)
    bar = tqdm(total=num_videos, desc="made-up videos", unit="video")
    with bar, pool:
        pending: set[Future[None]] = set()
        try:
            for story, path in videos:
                pending.add(pool.submit(render_story, story, path, size_pixels, frames_per_second))
                if len(pending) >= num_workers * TURNS_AHEAD:
                    pending = _wait_for_one(pending, bar)
            while pending:
                pending = _wait_for_one(pending, bar)
        except BrokenProcessPool as error:
            raise SyntheticDataError(
                "a process that renders videos was killed: start again, what is finished is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _wait_for_one(pending: set[Future[None]], bar: tqdm[NoReturn]) -> set[Future[None]]:
    """Those that are still to be done when one at least is done."""
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    for rendering in done:
        rendering.result()
    bar.update(len(done))
    return rest


def _end_with_parent() -> None:
    """Let a rendering process end when the run that wants its video does, even if that one was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


UNFINISHED_SUFFIX = ".part"
KEY_FRAME_SECONDS = 4
SMALL = 0.5  # size of an actor before it grows and after it has shrunk, as a share of its full size
DEGREES_PER_SECOND = (
    40.0  # looks different each second, and each fourth second, for every shape that spins
)
BLINK_SECONDS, SHOWN_SECONDS = (
    3.0,
    2.0,
)  # a cycle that neither one nor two nor four seconds between looks can miss
BOUNCE_SECONDS, BOUNCE_HEIGHT = (
    1.6,
    0.06,
)  # a hop; one look each second sees it at different heights
DRAWN_BY_PATH = {
    "stands still",
    "enters",
    "returns",
    "leaves",
    "touches",
    "pushes",
    "hides",
    "comes out",
}


def pose_at(scene: Scene, stay: Appearance, seconds: float) -> Pose | None:
    """The pose of a figure at a time of its stay, or None while it blinks or is behind a prop.

    Raises:
        SyntheticDataError: it does something that nothing here draws.
    """
    if stay.is_hidden_at(seconds):
        return None
    x, y = stay.position_at(seconds)
    radius = stay.actor.size / 2
    deed = scene.action_at(seconds)
    if deed is None or deed.actor != stay.actor:
        return Pose(x, y, radius)
    elapsed_seconds = seconds - deed.start_seconds
    progress = elapsed_seconds / (deed.end_seconds - deed.start_seconds)
    match deed.verb:
        case "spins":
            return Pose(x, y, radius, angle_degrees=elapsed_seconds * DEGREES_PER_SECOND)
        case "grows":
            return Pose(x, y, radius * (SMALL + (1 - SMALL) * progress))
        case "shrinks":
            return Pose(x, y, radius * (1 - (1 - SMALL) * progress))
        case "blinks":
            return Pose(x, y, radius) if elapsed_seconds % BLINK_SECONDS < SHOWN_SECONDS else None
        case "bounces":
            return Pose(
                x,
                y - BOUNCE_HEIGHT * abs(math.sin(math.pi * elapsed_seconds / BOUNCE_SECONDS)),
                radius,
            )
        case action if action in DRAWN_BY_PATH or action in SOLO_VERBS:
            return Pose(x, y, radius)
    raise SyntheticDataError(
        f"nothing here draws the action {deed.verb!r} of the deed at {deed.start_seconds} s"
    )


def poses_at(scene: Scene, seconds: float) -> tuple[tuple[Actor, Pose], ...]:
    """Who is seen at a time of the scene, and how; the one that does something is last, and so in front."""
    deed = scene.action_at(seconds)
    stays = [stay for stay in scene.appearances if stay.is_present_at(seconds)]
    stays.sort(key=lambda stay: deed is not None and stay.actor == deed.actor)
    poses = ((stay.actor, pose_at(scene, stay, seconds)) for stay in stays)
    return tuple((actor, pose) for actor, pose in poses if pose is not None)


def draw_moment(story: Story, seconds: float, size_pixels: int) -> Picture:
    """What is on screen at a time of the story, as a picture `(size_pixels, size_pixels, 3)`."""
    scene = story.scene_at(seconds)
    return draw_picture(
        scene.background, scene.props, poses_at(scene, seconds), size_pixels
    )  # (height, width, 3)


def render_story(story: Story, path: Path, size_pixels: int, frames_per_second: int) -> None:
    """Write the story as a square video; `path` appears only when the whole video is in it.

    Raises:
        SyntheticDataError: the size is odd, which H.264 with half the colour resolution cannot hold, or the file cannot be written.
    """
    if size_pixels % 2:
        raise SyntheticDataError(
            f"synthetic.image_size is {size_pixels}: it has to be even, as H.264 wants it"
        )
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    try:
        _encode(
            _pictures(story, size_pixels, frames_per_second),
            unfinished,
            size_pixels,
            frames_per_second,
        )
        os.replace(unfinished, path)
    except OSError as error:
        raise SyntheticDataError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _pictures(story: Story, size_pixels: int, frames_per_second: int) -> Iterator[Picture]:
    """One picture `(size_pixels, size_pixels, 3)` for each frame; one that has not changed is not drawn again."""
    num_frames = max(1, round(story.duration_seconds * frames_per_second))
    scenes = iter(story.scenes)
    scene, drawn = next(scenes), None
    for index in range(num_frames):
        seconds = index / frames_per_second
        while seconds >= scene.end_seconds:
            scene, drawn = next(scenes), None
        poses = poses_at(scene, seconds)
        if poses != drawn:
            picture = draw_picture(
                scene.background, scene.props, poses, size_pixels
            )  # (height, width, 3)
            drawn = poses
        yield picture


def _encode(
    pictures: Iterator[Picture], path: Path, size_pixels: int, frames_per_second: int
) -> None:
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
