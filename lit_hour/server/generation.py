"""Answers to questions about stored videos, as streams of events, and the evidence for them.

Entry points: `GenerationService.stream` and `GenerationService.attribute`. Each request has a task,
which never waits for the client, so a slow client delays no one. When the client disconnects, the
task is cancelled between two tokens, or between two layers of an attribution.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import HTTPException
from prometheus_client import Counter

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.inference.answer import Answer, AnswerPiece
from lit_hour.inference.attribution import Attribution, attribution_steps
from lit_hour.inference.json_constraint import compile_schema
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.io.out_of_memory import explain_out_of_memory
from lit_hour.server.admission import AdmissionQueue, Admitted
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import ModelExecutor
from lit_hour.server.scheduler import BatchScheduler
from lit_hour.server.stored_video import StoredVideo
from lit_hour.server.video_store import VideoStore
from lit_hour.types import Conversation, ImageSet, Message, TiledImage

HEARTBEAT_SECONDS = 5.0  # proxies and clients close connections that are silent for long
MAX_RECENT_ANSWERS = 1000
MAX_RECENT_CHARACTERS = 10_000_000  # of all recent answers, with their questions


@dataclass(frozen=True)
class GenerationRequest:
    """A conversation about a video, about images, or about neither.

    Attributes:
        id: of the completion, by which the evidence can be requested after the answer.
        messages: in any order, up to the answer.
        client: address; the clients take turns.
        video: None for images, and without media.
        images: decoded; None for a video, and without media.
        params: how to sample, and how many answers.
        evidence: whether the attribution of the answer follows it.
    """

    id: str
    messages: Sequence[Message]
    client: str = ""
    video: StoredVideo | None = None
    images: TiledImage | ImageSet | None = None
    params: SamplingParams = GREEDY
    evidence: bool = False

    @property
    def subject(self) -> str:
        """Name of the video, or of what else is asked about, for error messages."""
        if self.video is not None:
            return self.video.name
        return "the text" if self.images is None else "the images"


@dataclass(frozen=True)
class AnsweredQuestion:
    """A conversation about a video with its generated answer."""

    video_id: str
    conversation: Conversation
    answer: str

    @property
    def num_characters(self) -> int:
        """Length of all texts, with a hundred for what each message takes beside its text."""
        texts = [self.answer, *(message.text for message in self.conversation.messages)]
        return sum(len(text) + 100 for text in texts)


class RecentAnswers:
    """The latest answers by the id of their completion; the oldest are dropped beyond a limit."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, AnsweredQuestion] = OrderedDict()
        self._num_characters = 0

    def add(self, completion_id: str, answered: AnsweredQuestion) -> None:
        """Add an answer, and drop the oldest ones if there are too many."""
        self._answers[completion_id] = answered
        self._num_characters += answered.num_characters
        while (
            len(self._answers) > MAX_RECENT_ANSWERS or self._num_characters > MAX_RECENT_CHARACTERS
        ):
            _, oldest = self._answers.popitem(last=False)
            self._num_characters -= oldest.num_characters

    def get(self, completion_id: str) -> AnsweredQuestion:
        """Return an answer.

        Raises:
            HTTPException: 404, there is no such answer.
        """
        if completion_id not in self._answers:
            raise HTTPException(
                404,
                f"There is no answer {completion_id[:80]!r}. Evidence can be requested for the"
                f" latest {MAX_RECENT_ANSWERS} complete answers. Ask the question again.",
            )
        return self._answers[completion_id]


@dataclass(frozen=True)
class Heartbeat:
    """Nothing was generated yet; keeps the connection alive."""


StreamEvent = Heartbeat | AnswerPiece | Answer | Attribution


class GenerationService:
    """Generates answers, several requests at a time, and attributes them, one at a time."""

    def __init__(
        self,
        predictor: VideoPredictor,
        executor: ModelExecutor,
        videos: VideoStore,
        queue: AdmissionQueue,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._executor, self._videos = predictor, executor, videos
        self._queue, self._metrics = queue, metrics
        self.scheduler = BatchScheduler(predictor, executor, queue.throughput)
        self._recent = RecentAnswers()
        self._attribution_lock = asyncio.Lock()  # so that `serving.max_evidence_gb` is for all

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[StreamEvent]]:
        """Start to generate, and return the events; the end of the block cancels the rest.

        A `Heartbeat` comes first if the video is still being encoded. After the pieces of text of
        an answer comes the `Answer`, and after the last one the `Attribution` if the request has
        `evidence`.

        Raises:
            HTTPException: when iterated; the queue is full, or the video is not available.
            QuestionError: when iterated; the question is empty, or too long, or the attribution
                needs more memory than `serving.max_evidence_gb`.
            OutOfMemoryError: when iterated; the memory of the machine is exhausted.
        """
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        task = asyncio.create_task(self._run(request, events))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            yield _read_events(task, events)
        finally:
            task.cancel()
            await asyncio.wait([task])

    def compile_schema(self, schema: str) -> None:
        """Compile the JSON schema of a request, so that it is ready when the answer begins.

        Raises:
            QuestionError: as `json_constraint.compile_schema`.
        """
        compile_schema(self._predictor.processor.tokenizer, schema)

    async def attribute(self, completion_id: str, client: str = "") -> Attribution:
        """Attribute a recent answer.

        Args:
            completion_id: of the answer.
            client: as in `GenerationRequest`.

        Raises:
            HTTPException: there is no such answer, its video is gone, or the queue is full.
            QuestionError: more memory than `serving.max_evidence_gb` may be needed.
            OutOfMemoryError: the memory of the machine is exhausted.
        """
        answered = self._recent.get(completion_id)
        with self._queue.admit():
            return await self._attribute(answered, client)

    async def _run(
        self, request: GenerationRequest, events: asyncio.Queue[StreamEvent | None]
    ) -> None:
        config, params = self._predictor.config, request.params
        limit = config.generation.max_new_tokens
        max_tokens = params.num_choices * min(limit, params.max_new_tokens or limit)
        with ExitStack() as stack:
            with count_outcome(self._metrics.generations):
                admitted = stack.enter_context(self._queue.admit(max_tokens))
                conversation = self._predictor.processor.build_chat_prompt(request.messages)
                if request.video is not None and not request.video.finished.is_set():
                    events.put_nowait(Heartbeat())
                    await request.video.finished.wait()
                answer = await self._generate(request, conversation, admitted, events)
                if request.video is not None and params.num_choices == 1:
                    answered = AnsweredQuestion(request.video.id, conversation, answer.text)
                    self._recent.add(request.id, answered)
                events.put_nowait(answer)
            if request.evidence:
                events.put_nowait(await self._attribute(answered, request.client))

    @asynccontextmanager
    async def _open_memory(self, request: GenerationRequest) -> AsyncIterator[VideoMemory]:
        """Lease the memory of a video, or encode images, for the duration of the block."""
        if request.video is not None:
            async with self._videos.lease_memory(request.video) as memory:
                yield memory
            return
        with explain_out_of_memory(lambda _: f"{request.subject} do not fit into memory."):
            memory = await self._executor.run(
                self._predictor.encode_visual, request.images, 0.0, request.subject
            )
        yield memory

    async def _generate(
        self,
        request: GenerationRequest,
        conversation: Conversation,
        admitted: Admitted,
        events: asyncio.Queue[StreamEvent | None],
    ) -> Answer:
        """Generate the answers, and return the last one to end, which is not among the events."""
        answers: list[Answer] = []

        def emit(event: AnswerPiece | Answer) -> None:
            if isinstance(event, Answer):
                answers.append(event)
                if len(answers) == request.params.num_choices:
                    return
            else:
                self._metrics.generated_tokens.inc()
                admitted.count_token()
            events.put_nowait(event)

        # the memory is leased when it is needed, so that requests that wait take none
        async with self._queue.turn(request.client), self._open_memory(request) as memory:
            started = time.monotonic()
            try:
                with explain_out_of_memory(lambda _: self._describe_answer(request, memory)):
                    await self.scheduler.generate(memory, conversation, request.params, emit)
            finally:
                self._metrics.generation_seconds.inc(time.monotonic() - started)
        return answers[-1]

    async def _attribute(self, answered: AnsweredQuestion, client: str) -> Attribution:
        video = self._videos.get(answered.video_id)
        with count_outcome(self._metrics.attributions):
            async with (
                self._attribution_lock,
                self._queue.turn(client),
                self._videos.lease_memory(video) as memory,
            ):
                started = time.monotonic()
                steps = attribution_steps(
                    self._predictor, memory, answered.conversation, answered.answer
                )
                try:
                    with explain_out_of_memory(lambda _: self._describe_evidence(memory)):
                        while (attribution := await self._executor.run(next, steps)) is None:
                            pass  # other requests use the model between two steps
                    return attribution
                finally:
                    self._executor.submit(steps.close)  # on the thread of its steps
                    self._metrics.attribution_seconds.inc(time.monotonic() - started)

    def _describe_answer(self, request: GenerationRequest, memory: VideoMemory) -> str:
        config = self._predictor.config
        serving = config.serving
        return (
            f"The answer about {request.subject} does not fit into memory, with"
            f" {len(memory.repository.tokens)} tokens of the video in memory and up to"
            f" text.max_tokens={config.text.max_tokens} in the prompt. Ask again later, or lower"
            f" serving.server.max_concurrent_requests={serving.server.max_concurrent_requests},"
            f" serving.kv_cache_gb={serving.kv_cache_gb:g},"
            f" serving.memory_cache_gb={serving.memory_cache_gb:g},"
            f" serving.prefix_cache_gb={serving.prefix_cache_gb:g} or"
            f" video.max_frames={config.video.max_frames}."
        )

    def _describe_evidence(self, memory: VideoMemory) -> str:
        limit_gb = self._predictor.config.serving.max_evidence_gb
        return (
            f"The evidence for an answer about {memory.source} does not fit into memory, with"
            f" {len(memory.repository.tokens)} tokens of the video in memory, although"
            f" serving.max_evidence_gb={limit_gb:g} permits it. Lower it, or take a shorter video."
        )


@contextmanager
def count_outcome(counter: Counter) -> Iterator[None]:
    """Count whether the block was completed, failed or cancelled, in a counter with that label."""
    outcome = "failed"
    try:
        yield
        outcome = "completed"
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        counter.labels(outcome).inc()


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
