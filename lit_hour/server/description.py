"""Descriptions of the videos of a server: computed on request, one at a time, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from weakref import WeakKeyDictionary

from fastapi import HTTPException

from lit_hour.inference.describe import (
    Description,
    DescriptionParams,
    Progress,
    describe_steps,
)
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.out_of_memory import explain_out_of_memory
from lit_hour.server.queueing import ModelExecutor
from lit_hour.server.stored_video import StoredVideo
from lit_hour.server.video_store import RETRY_AFTER_SECONDS, VideoStore

MAX_DESCRIPTIONS = 4  # requests that are served or wait


class DescriptionService:
    """Describes videos; other requests use the model between two tokens."""

    def __init__(
        self, predictor: VideoPredictor, executor: ModelExecutor, videos: VideoStore
    ) -> None:
        self._predictor, self._executor, self._videos = predictor, executor, videos
        self._known: WeakKeyDictionary[StoredVideo, Description] = WeakKeyDictionary()
        self._num_requests, self._lock = 0, asyncio.Lock()

    async def describe(self, video: StoredVideo) -> Description:
        """Return the description of a video as it is now; it is computed once.

        Raises:
            HTTPException: 429, too many videos are being described; or as `lease_memory`.
            QuestionError: as `describe_steps`.
            OutOfMemoryError: the memory of the machine is exhausted.
        """
        if self._num_requests >= MAX_DESCRIPTIONS:
            raise HTTPException(
                429,
                f"{self._num_requests} videos are being described. Try again later.",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._num_requests += 1
        try:
            return await self._describe(video)
        finally:
            self._num_requests -= 1

    async def _describe(self, video: StoredVideo) -> Description:
        await video.finished.wait()
        # those that wait for the lock pin no memory, which answers need meanwhile
        async with self._lock, self._videos.lease_memory(video) as memory:
            known = self._known.get(video)
            if known is not None and known.duration_seconds == memory.duration_seconds:
                return known
            steps = describe_steps(self._predictor, memory, DescriptionParams())
            try:
                with explain_out_of_memory(lambda _: _describe_size(video)):
                    while (description := await self._executor.run(_advance, steps)) is None:
                        pass  # other requests use the model between two steps
            finally:
                self._executor.submit(steps.close)  # on the thread that runs it
            self._known[video] = description
            return description


def _advance(steps: Generator[Progress, None, Description]) -> Description | None:
    """Take a step; a future cannot hold the StopIteration of the last one."""
    try:
        next(steps)
    except StopIteration as end:
        description: Description = end.value
        return description
    return None


def _describe_size(video: StoredVideo) -> str:
    return (
        f"The description of {video.name} does not fit into memory. Ask again later, or lower"
        " serving.memory_cache_gb or video.max_frames."
    )
