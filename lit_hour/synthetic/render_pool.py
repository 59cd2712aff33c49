"""Render planned videos in parallel processes, which can also give the frames that are packed.

`RenderPool` is the entry point. This module must not import torch, so that the processes start
fast, also while the process that starts them imports it.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.io.atomic import remove_temp_files
from lit_hour.media.jpeg_frames import JpegFrames, read_jpeg_frames, supports
from lit_hour.media.worker_process import exit_with_parent
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.video_plan import VideoPlan, generate_planned_story

# Longer videos come first, so that none is left for one process at the end.
LONG_VIDEO_SECONDS = 600.0
MAX_AHEAD_SECONDS = 3 * 3600.0  # of videos with frames in memory or being rendered


@dataclass(frozen=True)
class FrameSampling:
    """Settings for sampling and encoding the packed frames."""

    video: VideoConfig
    jpeg_quality: int

    @classmethod
    def from_config(cls, video: VideoConfig, pack: PackConfig) -> FrameSampling | None:
        """Return the sampling of these settings, or None if only packing itself can do it."""
        return cls(video, pack.jpeg_quality) if supports(video) else None


class PlannedTask(Protocol):
    """A video to make in another process: pickled, and given to the function that makes it."""

    @property
    def plan(self) -> VideoPlan:
        """Return the plan of the video."""

    @property
    def path(self) -> Path:
        """Return the file to write; no other process writes to its folder."""


@dataclass(frozen=True)
class RenderTask:
    """A video to render: its plan, the settings of its story, and the file to write."""

    plan: VideoPlan
    settings: SyntheticConfig
    path: Path


@dataclass(frozen=True)
class RenderedVideo:
    """A finished file, and its frames if they were asked for."""

    path: Path
    frames: JpegFrames | None


TaskT = TypeVar("TaskT", bound=PlannedTask)


class RenderPool(AbstractContextManager["RenderPool[TaskT]"], Generic[TaskT]):
    """Processes that render videos; they begin at once and end with the context.

    An error inside the context ends them in the middle of their videos.
    """

    def __init__(
        self,
        tasks: Sequence[TaskT],
        num_workers: int,
        render: Callable[[TaskT, FrameSampling | None], RenderedVideo],
        sampling: FrameSampling | None = None,
    ) -> None:
        """Start the processes.

        Args:
            tasks: the videos; long ones are rendered first.
            num_workers: number of processes.
            render: makes the video of a task; a function of a module that does not import torch.
            sampling: return the frames to pack as well; not more than `MAX_AHEAD_SECONDS` of
                video are then rendered before `rendered` is iterated.
        """
        self._num_videos, self._render, self._sampling = len(tasks), render, sampling
        self._folders = {task.path.parent for task in tasks}
        self._waiting = deque(
            sorted(tasks, key=lambda task: task.plan.duration_seconds < LONG_VIDEO_SECONDS)
        )
        self._pending: dict[Future[RenderedVideo], float] = {}
        # Not the fork server of other processes that decode: it imports torch.
        context = multiprocessing.get_context("spawn")
        self._num_processes = max(1, min(num_workers, len(tasks)))
        self._executor = ProcessPoolExecutor(
            self._num_processes, context, initializer=exit_with_parent
        )
        self._submit()

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:  # a video of an hour would take minutes
            # Executor.kill_workers is new in Python 3.14.
            for process in list(self._executor._processes.values()):
                process.kill()
            # A process killed while it sends frames leaves a part of a message. The executor's
            # thread would wait for the remainder as long as this process can write to the pipe.
            self._executor._result_queue._writer.close()  # type: ignore[attr-defined]
        self._executor.shutdown(cancel_futures=True)
        if error_type is not None:
            for folder in self._folders:
                remove_temp_files(folder)

    def rendered(self) -> Iterator[RenderedVideo]:
        """Yield each video when it is finished, in any order, under a progress bar.

        Raises:
            SyntheticDataError: a story cannot be generated, a video cannot be written, or a
                process was killed. Finished videos remain.
            VideoError: a written video cannot be read again.
        """
        if not self._num_videos:
            return
        with tqdm(total=self._num_videos, desc="synthetic videos", unit="video") as bar:
            while self._pending:
                done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
                for future in done:
                    del self._pending[future]
                    with explain_broken_pool():
                        video = future.result()
                    bar.update()
                    yield video
                with explain_broken_pool():
                    self._submit()

    def _submit(self) -> None:
        """Submit as many videos as may be rendered ahead."""
        while self._waiting and (
            self._sampling is None
            or len(self._pending) < self._num_processes
            or sum(self._pending.values()) < MAX_AHEAD_SECONDS
        ):
            task = self._waiting.popleft()
            future = self._executor.submit(self._render, task, self._sampling)
            self._pending[future] = task.plan.duration_seconds


@contextmanager
def explain_broken_pool() -> Iterator[None]:
    """Turn the death of a process of a pool into a `SyntheticDataError`."""
    try:
        yield
    except BrokenProcessPool as error:
        raise SyntheticDataError(
            "A rendering process was killed. Run the same command again: finished videos are kept."
        ) from error


def render_video(task: RenderTask, sampling: FrameSampling | None) -> RenderedVideo:
    """Render a planned video, and read its frames as packing would.

    Raises:
        SyntheticDataError: its story cannot be generated, or the file cannot be written.
        VideoError: the file cannot be read again.
    """
    story = generate_planned_story(task.plan, task.settings)
    render_story(story, task.path, task.settings.image_size, task.settings.fps)
    if sampling is None:
        return RenderedVideo(task.path, None)
    return RenderedVideo(
        task.path, read_jpeg_frames(task.path, sampling.video, sampling.jpeg_quality)
    )
