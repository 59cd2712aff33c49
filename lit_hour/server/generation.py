"""A question about a video that a client has brought -> what happens until it is answered, as it happens.

A task of its own asks the model and never waits for the client, so that a slow one holds nobody up; when the client leaves,
the task is cancelled, and the model stops between two tokens.
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

HEARTBEAT_SECONDS = (
    5.0  # a client hears of us at least so often: who hears nothing for long takes us for dead
)


@dataclass(frozen=True)
class GenerationRequest:
    """What is asked.

    Attributes:
        history: questions that were asked before and their answers, in turn.
        max_tokens: most tokens to generate; None for as many as `generation.max_new_tokens`.
    """

    video: StoredVideo
    question: str
    history: Sequence[Message] = ()
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Heartbeat:
    """Nothing has happened yet."""


@dataclass(frozen=True)
class Completed:
    """The whole answer, and where in the video it was found."""

    answer: Answer
    attribution: Attribution


StreamEvent = Heartbeat | str | Completed


class GenerationService:
    """Answers questions in turn."""

    def __init__(
        self,
        predictor: VideoPredictor,
        model: ModelExecutor,
        library: VideoStore,
        line: BoundedQueue,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._model, self._library, self._line, self._metrics = (
            predictor,
            model,
            library,
            line,
            metrics,
        )

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[StreamEvent]]:
        """What happens, `Answered` last; `Waiting` comes first if the video is still being remembered.

        Raises:
            RefusedError: when the happenings are read: there is no place in the line, or the video is not there.
            QuestionError: when the happenings are read: the question is empty, or too long.
        """
        happened: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        task = asyncio.create_task(self._work(request, happened))
        task.add_done_callback(lambda _: happened.put_nowait(None))
        try:
            yield _read(task, happened)
        finally:
            task.cancel()
            await asyncio.wait([task])
            ending = "cancelled" if task.cancelled() else "refused" if task.exception() else "whole"
            self._metrics.add("lit_hour_answers_total", ending=ending)

    async def _work(
        self, request: GenerationRequest, happened: asyncio.Queue[StreamEvent | None]
    ) -> None:
        async with self._line.admit():
            if not request.video.finished.is_set():
                happened.put_nowait(Heartbeat())
            async with self._library.lease_memory(request.video) as memory, self._line.run_slot():
                started = time.monotonic()
                try:
                    await self._answer(request, memory, happened)
                finally:
                    self._metrics.add("lit_hour_answer_seconds_total", time.monotonic() - started)

    async def _answer(
        self,
        request: GenerationRequest,
        memory: VideoMemory,
        happened: asyncio.Queue[StreamEvent | None],
    ) -> None:
        words = self._predictor.generate(
            memory, request.question, request.history, request.max_new_tokens
        )
        try:
            while isinstance(answer := await self._model.run(next, words), str):
                happened.put_nowait(answer)
                self._metrics.add("lit_hour_answer_tokens_total")
        finally:
            self._model.submit(words.close)  # type: ignore[attr-defined]  # it is a generator; and on its own thread
        asked = (request.question, answer.text, request.history)
        evidence = await self._model.run(attribute_answer, self._predictor, memory, *asked)
        happened.put_nowait(Completed(answer, evidence))


async def _read(
    task: asyncio.Task[None], happened: asyncio.Queue[StreamEvent | None]
) -> AsyncIterator[StreamEvent]:
    while True:
        try:
            happening = await asyncio.wait_for(happened.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            yield Heartbeat()
            continue
        if happening is None:
            await task  # raises what went wrong
            return
        yield happening
