"""The loop that generates the answers of all clients in one batch, and hands out their tokens.

Entry point: `BatchScheduler`. The batch is changed on the thread of the model alone, between two
steps; a request that is cancelled leaves it there, and another one joins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.errors import QuestionError
from lit_hour.inference.answer import Answer, AnswerPiece
from lit_hour.inference.batching import BatchedDecoder, Generation
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.io.out_of_memory import is_out_of_memory
from lit_hour.server.admission import ByteBudget, Throughput
from lit_hour.server.queueing import ModelExecutor
from lit_hour.types import Conversation


@dataclass
class _Receiver:
    """The request that a generation answers.

    Attributes:
        emit: called with each piece and answer.
        num_left: answers that are not complete.
        finished: when the last answer is complete, or with the error.
    """

    emit: Callable[[AnswerPiece | Answer], None]
    num_left: int
    finished: asyncio.Future[None]


class BatchScheduler:
    """Continuous batching for concurrent requests.

    Attributes:
        kv_caches: memory of the generations that run.
    """

    def __init__(
        self, predictor: VideoPredictor, executor: ModelExecutor, throughput: Throughput
    ) -> None:
        """Args: throughput: counts the generated tokens."""
        self.kv_caches = ByteBudget(int(predictor.config.serving.kv_cache_gb * 1e9))
        self._executor, self._throughput = executor, throughput
        self._decoder = BatchedDecoder(predictor)
        self._receivers: dict[Generation, _Receiver] = {}  # in the order in which they joined
        self._loop: asyncio.Task[None] | None = None

    async def generate(
        self,
        memory: VideoMemory,
        conversation: Conversation,
        params: SamplingParams,
        emit: Callable[[AnswerPiece | Answer], None],
    ) -> None:
        """Generate the answers to one conversation; cancelling this frees its slot in the batch.

        Args:
            memory: of the video or images.
            conversation: up to the answer.
            params: how to sample, and how many answers.
            emit: called with each piece, and with each answer when it is complete.

        Raises:
            QuestionError: the conversation is too long, or its JSON schema cannot be used.
            MemoryError, RuntimeError, OSError: the memory of the machine is exhausted.
        """
        prepare = self._decoder.prepare
        generation = await self._executor.run(prepare, memory, conversation, params)
        async with self.kv_caches.hold(generation, generation.num_cache_bytes):
            finished = asyncio.get_running_loop().create_future()
            self._receivers[generation] = _Receiver(emit, params.num_choices, finished)
            try:
                await self._executor.run(self._decoder.add, generation)
                if self._loop is None or self._loop.done():
                    self._loop = asyncio.create_task(self._decode())
                await finished
            finally:
                del self._receivers[generation]
                self._executor.submit(self._decoder.remove, generation)

    async def _decode(self) -> None:
        """Generate until no request is left."""
        while self._receivers:
            step = asyncio.ensure_future(self._executor.run(self._decoder.step))
            await asyncio.wait([step])
            if step.cancelled():  # the server ends
                for receiver in self._receivers.values():
                    receiver.finished.cancel()
                return
            error = step.exception()
            if error is not None:
                self._fail(error)
                continue
            events = step.result()
            self._throughput.add(sum(isinstance(event, AnswerPiece) for _, event in events))
            for generation, event in events:
                self._deliver(generation, event)

    def _deliver(self, generation: Generation, event: AnswerPiece | Answer | QuestionError) -> None:
        receiver = self._receivers.get(generation)
        if receiver is None or receiver.finished.done():  # cancelled during the step
            return
        if isinstance(event, QuestionError):
            receiver.finished.set_exception(event)
            return
        receiver.emit(event)
        receiver.num_left -= isinstance(event, Answer)
        if not receiver.num_left:
            receiver.finished.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """End all generations; for lack of memory only the latest one, without which others fit."""
        waiting = [one for one in self._receivers.items() if not one[1].finished.done()]
        for generation, receiver in waiting[-1:] if is_out_of_memory(error) else waiting:
            receiver.finished.set_exception(error)
            self._executor.submit(self._decoder.remove, generation)  # before the next step
