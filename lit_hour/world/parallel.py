"""Stories and paths in, mp4 files out: several at once. It needs no torch, which each process would load again."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from lit_hour.errors import WorldError
from lit_hour.world.render import render_story
from lit_hour.world.story import Story

TURNS_AHEAD = 2  # stories that are written for each process, one of which it renders


def render_stories(
    videos: Iterable[tuple[Story, Path]], num_videos: int, size_pixels: int, frames_per_second: int, num_workers: int
) -> None:
    """Render each story to its path, `num_workers` of them side by side, the first ones first.

    A story is taken from `videos` when its turn is near, so that any number of them needs the memory of a few.

    Raises:
        WorldError: a video cannot be written, or one of the processes was killed; what is finished by then stays.
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
            raise WorldError("a process that renders videos was killed: start again, what is finished is kept") from error
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
