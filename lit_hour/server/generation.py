"""Answers to questions about stored videos, as streams of events.

Entry point: `GenerationService.stream`. A task of its own runs the model and never waits for the
client, so a slow client delays no one. The task is cancelled between two tokens when the client
disconnects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lit_hour.inference.attribution import Attribution, attribute_answer
from lit_hour.inference.predictor import Answer, VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import BoundedQueue, ModelExecutor
from lit_hour.server.video_store import StoredVideo, VideoStore
from lit_hour.types import Message

HEARTBEAT_SECONDS = 5.0  # proxies and clients close connections that are silent for long


@dataclass(frozen=True)
class GenerationRequest:
    """One question about a video.

    Attributes:
        history: earlier questions and answers, alternating.
        max_new_tokens: limit on the tokens to generate; None for `generation.max_new_tokens`.
    """

    video: StoredVideo
    question: str
    history: Sequence[Message] = ()
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Heartbeat:
    """Nothing was generated yet; keeps the connection alive."""


@dataclass(frozen=True)
class Completed:
    """The full answer, and the moments of the video that it is based on."""

    answer: Answer
    attribution: Attribution


StreamEvent = Heartbeat | str | Completed


class GenerationService:
    """Generates answers, several requests at a time."""

    def __init__(
        self,
        predictor: VideoPredictor,
        executor: ModelExecutor,
        videos: VideoStore,
        queue: BoundedQueue,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._executor, self._videos = predictor, executor, videos
        self._queue, self._metrics = queue, metrics

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[StreamEvent]]:
        """Start to generate, and return the events; the end of the block cancels the rest.

        A `Heartbeat` comes first if the video is still being encoded; `Completed` comes last.

        Raises:
            HTTPException: when iterated; the queue is full, or the video is not available.
            QuestionError: when iterated; the question is empty, or too long.
        """
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        task = asyncio.create_task(self._run(request, events))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            yield _read_events(task, events)
        finally:
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                outcome = "cancelled"
            else:
                outcome = "failed" if task.exception() else "completed"
            self._metrics.generations.labels(outcome).inc()

    async def _run(
        self, request: GenerationRequest, events: asyncio.Queue[StreamEvent | None]
    ) -> None:
        async with self._queue.admit():
            if not request.video.finished.is_set():
                events.put_nowait(Heartbeat())
            async with self._videos.lease_memory(request.video) as memory, self._queue.run_slot():
                started = time.monotonic()
                try:
                    await self._generate(request, memory, events)
                finally:
                    self._metrics.generation_seconds.inc(time.monotonic() - started)

    async def _generate(
        self,
        request: GenerationRequest,
        memory: VideoMemory,
        events: asyncio.Queue[StreamEvent | None],
    ) -> None:
        pieces = self._predictor.generate(
            memory, request.question, request.history, request.max_new_tokens
        )
        try:
            while isinstance(answer := await self._executor.run(next, pieces), str):
                events.put_nowait(answer)
                self._metrics.generated_tokens.inc()
        finally:
            self._executor.submit(pieces.close)  # a generator must be closed on its own thread
        attribution = await self._executor.run(
            attribute_answer,
            self._predictor,
            memory,
            request.question,
            answer.text,
            request.history,
        )
        events.put_nowait(Completed(answer, attribution))


async def _read_events(
    task: asyncio.Task[None], events: asyncio.Queue[StreamEvent | None]
) -> AsyncIterator[StreamEvent]:
    while True:
        try:
            event = await asyncio.wait_for(events.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            yield Heartbeat()
            continue
        if event is None:
            await task  # raises the exception of the task
            return
        yield event
