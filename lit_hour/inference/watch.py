"""Questions about a live video while it is read: `Watch`.

One thread decodes the source, another reads questions, and the thread of `Watch.run` alone runs the
model. Frames that arrive during an answer are encoded between its tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread

import torch
from torch import Tensor

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.errors import QuestionError, VideoError
from lit_hour.inference.answer import Answer
from lit_hour.inference.live_memory import LiveMemory
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.media.live_stream import LiveStream
from lit_hour.model.streaming_repository import CHUNK_FRAMES
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Frames

MAX_WAITING_EVENTS = 32  # frames that are decoded ahead of the model, and questions
_PUT_SECONDS = 0.2

HELP = """Type a question at any time. It is answered about what was read until then, alone.
  :quit       stop reading; Ctrl-C does too"""


@dataclass(frozen=True)
class SampledFrame:
    """A frame of the source: `(3, size, size)` uint8.

    Attributes:
        seconds: its time in the video.
        read_seconds: duration of the video when it was sampled.
    """

    image: Tensor
    seconds: float
    read_seconds: float


@dataclass(frozen=True)
class End:
    """The end of the source ("video") or of the questions ("lines")."""

    of: str


class Watch:
    """Reads a live source into a memory, and answers questions about it meanwhile.

    Attributes:
        live: the memory so far.
    """

    def __init__(
        self,
        predictor: VideoPredictor,
        stream: LiveStream,
        max_frames: int,
        sampling: SamplingParams = GREEDY,
        question: str = "",
        every_seconds: float = 0.0,
    ) -> None:
        """Create the loop; `run` starts it.

        Args:
            predictor: encodes the frames and answers.
            stream: the source.
            max_frames: limit on the frames in memory, see `thinned_indices`.
            sampling: how to sample an answer.
            question: asked at the end, and before it every `every_seconds` of video if positive.
            every_seconds: 0 for the end alone.
        """
        self.live = LiveMemory(predictor, stream.name, max_frames)
        self._predictor, self._stream, self._sampling = predictor, stream, sampling
        self._question, self._every_seconds = question, every_seconds
        self._next_seconds = every_seconds
        self._events: Queue[SampledFrame | str | End] = Queue(MAX_WAITING_EVENTS)
        self._later: deque[SampledFrame | str | End] = deque()  # put off during an answer
        self._pending: list[SampledFrame] = []  # not encoded yet
        self._questions: deque[str] = deque()  # from before the first frame
        self._open = {"video"}  # what has not ended
        self._stopped = Event()

    def run(self, read_line: Callable[[], str] | None = None) -> None:
        """Read the source and the questions to their ends; Ctrl-C ends both.

        Args:
            read_line: returns the next question; EOFError ends the questions. None for no
                questions but that of the constructor.

        Raises:
            VideoError: nothing of the source can be read.
        """
        with self._reading() as reading:
            if read_line is not None:
                self._open.add("lines")
                Thread(target=self._read_lines, args=(read_line,), daemon=True).start()
            try:
                while self._open:
                    self._handle(self._next_event())
            except KeyboardInterrupt:
                self._stream.stop()
                while "video" in self._open:  # frames that were decoded already
                    event = self._next_event()
                    if not isinstance(event, str):
                        self._handle(event)
        reading.result()  # raises what the decoder raised

    @property
    def memory(self) -> VideoMemory:
        """The memory of all frames that were read.

        Raises:
            QuestionError: no frame was read yet.
        """
        if self.live.memory is None:
            raise QuestionError(f"Nothing of {self._stream.name} was read yet. Wait for it.")
        return self.live.memory

    @contextmanager
    def _reading(self) -> Iterator[Future[None]]:
        """Decode in a thread, which ends with the block."""
        with ThreadPoolExecutor(1, "decode") as pool:
            try:
                yield pool.submit(self._read_frames)
            finally:
                self._stopped.set()
                self._stream.stop()

    def _read_frames(self) -> None:
        is_readable = False
        try:
            for image, seconds in self._stream.frames():
                self._put(SampledFrame(image, seconds, self._stream.duration_seconds))
                is_readable = True
        except VideoError as error:
            if not is_readable:
                raise
            self._stream.end_reason = str(error).rstrip(".")  # what was read stays
        finally:
            self._put(End("video"))

    def _read_lines(self, read_line: Callable[[], str]) -> None:
        try:
            while (line := read_line().strip()) != ":quit":
                if line:
                    self._put(line)
            self._stream.stop()
        except EOFError:
            pass
        self._put(End("lines"))

    def _put(self, event: SampledFrame | str | End) -> None:
        """Wait until the loop has taken earlier events, or until it has ended."""
        while not self._stopped.is_set():
            try:
                self._events.put(event, timeout=_PUT_SECONDS)
                return
            except Full:
                continue

    def _next_event(self) -> SampledFrame | str | End:
        return self._later.popleft() if self._later else self._events.get()

    def _handle(self, event: SampledFrame | str | End) -> None:
        if isinstance(event, SampledFrame):
            self._add(event)
        elif isinstance(event, str):
            self._questions.append(event)
            self._encode_pending()
        else:
            self._open.discard(event.of)
            if event.of == "video":
                self._finish()
        if self.live.memory is not None:
            while self._questions:
                self._print_answer(self._questions.popleft())

    def _add(self, frame: SampledFrame) -> None:
        """Add a frame; the model encodes several at the cost of one."""
        self._pending.append(frame)
        is_due = self._every_seconds > 0 and frame.read_seconds >= self._next_seconds
        if is_due:
            if self._question not in self._questions:  # answers may take longer than that
                self._questions.append(self._question)
            self._next_seconds = frame.read_seconds + self._every_seconds
        if is_due or self._questions or len(self._pending) >= CHUNK_FRAMES:
            self._encode_pending()

    def _encode_pending(self) -> None:
        if frames := self._pending:
            images = torch.stack([frame.image for frame in frames])  # (frames, 3, size, size)
            seconds = torch.tensor([frame.seconds for frame in frames])  # (frames,)
            self.live.append(Frames(images, seconds), frames[-1].read_seconds)
            self._pending = []  # last, so that Ctrl-C loses none

    def _finish(self) -> None:
        """Encode the last frames, and print how the source ended."""
        self._encode_pending()
        if self.live.memory is None:
            self._open.clear()  # the decoder raises the reason
            return
        stream, num_kept = self._stream, self.live.memory.num_frames
        self.live.set_duration(stream.duration_seconds)
        damaged = stream.damage.num_packets
        damage = f"; {damaged} packets could not be decoded" if damaged else ""
        print(
            f"[the source ended at {format_timestamp(stream.duration_seconds)}:"
            f" {stream.end_reason or 'it was stopped'}{damage}. {self.live.num_read} frames read,"
            f" {num_kept} in memory]",
            flush=True,
        )
        if self._question:
            self._questions.append(self._question)

    def _print_answer(self, question: str) -> None:
        """Stream an answer to the terminal; an error is printed, and reading goes on."""
        memory = self.memory
        print(f"[{format_timestamp(memory.duration_seconds)}] {question}", flush=True)
        try:
            for piece in self._predictor.generate(memory, question, sampling=self._sampling):
                if isinstance(piece, Answer):
                    seconds = piece.seconds["first_token"] + piece.seconds["other_tokens"]
                    print(f"\n[{piece.num_frames} frames; {seconds:.2f} s]", flush=True)
                else:
                    print(piece, end="", flush=True)
                    self._take_frames()
        except QuestionError as error:
            print(f"error: {error}", flush=True)

    def _take_frames(self) -> None:
        """Take frames that arrived during an answer; other events wait until it is complete."""
        while not self._later:
            try:
                event = self._events.get_nowait()
            except Empty:
                return
            if isinstance(event, SampledFrame):
                self._add(event)
                if not self._pending:
                    return  # it was encoded, and the next token is due
            else:
                self._later.append(event)
