"""Stories and paths in, mp4 files out: several at once. It needs no torch, which each process would load again."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from lit_hour.errors import WorldError
from lit_hour.world.render import render_story
from lit_hour.world.script import Story


def render_stories(videos: list[tuple[Story, Path]], size_pixels: int, frames_per_second: int, num_workers: int) -> None:
    """Render each story to its path, `num_workers` of them side by side, the first ones first.

    Raises:
        WorldError: a video cannot be written, or one of the processes was killed; what is finished by then stays.
    """
    if not videos:
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(num_workers, len(videos)), context, initializer=_end_with_parent) as pool:
        renderings = [pool.submit(render_story, story, path, size_pixels, frames_per_second) for story, path in videos]
        try:
            for rendering in tqdm(as_completed(renderings), total=len(renderings), desc="made-up videos", unit="video"):
                rendering.result()
        except BrokenProcessPool as error:
            raise WorldError("a process that renders videos was killed: start again, what is finished is kept") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a rendering process end when the run that wants its video does, even if that one was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()
