"""A video that comes in pieces in; the repository of all that was seen so far, prepared for its questions, out.

What was seen before is neither read nor copied when more comes, so that a minute costs the same at any hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Lock

import torch
from torch import Tensor

from lit_hour.model.attention import KVCache
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import (
    CachedRepository,
    MemoryRepository,
    TokenGrid,
    append_newline,
    build_video_repository,
)
from lit_hour.types import Frames, Video

BLOCK_FRAMES = 8  # computed at once; more are hardly faster, and a piece of one frame costs as much as one of so many


class AppendBuffer:
    """Room for rows that come one after the other; it doubles when it is full, so that each row is copied once or twice."""

    def __init__(self, like: Tensor, num_rows: int) -> None:
        """Args: like: `(any, ...)` a row of which shows shape, dtype and device."""
        self.data = like.new_empty(num_rows, *like.shape[1:])  # (room, ...)

    def write(self, rows: Tensor, start: int) -> None:
        """Write rows `(rows, ...)` behind the first `start` ones."""
        end = start + len(rows)
        if end > len(self.data):
            larger = self.data.new_empty(
                max(end, 2 * len(self.data)), *self.data.shape[1:]
            )  # (room, ...)
            larger[:start] = self.data[:start]
            self.data = larger  # who looks at the rows of before keeps the room of before
        self.data[start:end] = rows


class StreamingRepository:
    """The memory of a video of which more may come.

    The frames are computed in blocks that are counted from the beginning of the video, so that all is the same to the bit
    whichever pieces they come in.
    """

    def __init__(self, model: HourLLaVA, num_frames: int = 0) -> None:
        """Args: num_frames: so many are expected; there may be more."""
        self._model, self._expected_frames = model, num_frames
        self._parts: list[
            AppendBuffer
        ] = []  # tokens, positions, and keys and values for each block of MemAug
        self._timestamps = AppendBuffer(
            torch.empty(0, device=model.frame_newline.device), num_frames
        )
        self._num_frames = 0
        self._side = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Frames that were added."""
        return self._num_frames

    @property
    def buffers(self) -> list[Tensor]:
        """All that it holds, with the room for what may come."""
        return [rows.data for rows in (self._timestamps, *self._parts)]

    @torch.inference_mode()
    def append(self, video: Video) -> None:
        """See what comes next."""
        seen = video.images if isinstance(video, Frames) else video.tokens  # (frames, ...)
        self._add(
            seen,
            video.timestamps,
            lambda block: self._model.encode_visuals([_with_content(video, block)])[0],
        )

    @torch.inference_mode()
    def append_encoded(self, tokens: Tensor, timestamps: Tensor) -> None:
        """Take in what comes next as `HourLLaVA.encode` has it: `(frames, tokens, dim)` and `(frames,)`."""
        self._add(tokens, timestamps, lambda block: block)

    def fork_and_extend(self, num_frames: int, video: Video) -> StreamingRepository:
        """One that has the first `num_frames` and then these: this one, or a copy if it has gone on in another way."""
        with self._lock:
            if num_frames == len(self):
                self.append(video)
                return self
        copy = StreamingRepository(self._model, num_frames + len(video))
        tokens, timestamps = self.encoded(num_frames)
        copy.append_encoded(tokens, timestamps)
        copy.append(video)
        return copy

    def encoded(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """The first frames as `append_encoded` takes them: `(frames, tokens, dim)` and `(frames,)`."""
        tokens_per_frame = self._side**2 + 1
        tokens = (
            self._parts[0]
            .data[: num_frames * tokens_per_frame]
            .unflatten(0, (num_frames, tokens_per_frame))
        )
        return tokens[:, :-1], self._timestamps.data[
            :num_frames
        ]  # (frames, tokens, dim), (frames,)

    @torch.inference_mode()
    def repository(self, num_frames: int) -> MemoryRepository:
        """The memory of the first frames; it stays as it is when more come."""
        model = self._model
        if num_frames < model.settings.min_frames:
            tokens, timestamps = self.encoded(num_frames)  # (frames, tokens, dim), (frames,)
            return model.with_kv_cache(
                build_video_repository(
                    tokens, model.frame_newline, timestamps, model.settings.min_frames
                )
            )
        raster = TokenGrid(num_frames, self._side, self._side)
        tokens, positions, *rest = (
            part.data[: num_frames * raster.num_tokens] for part in self._parts
        )
        repository = MemoryRepository(
            tokens, positions, (raster,), self._timestamps.data[:num_frames]
        )
        if not model.settings.use_full_memory:
            return repository
        keys_values = tuple(KVCache(*pair) for pair in zip(rest[::2], rest[1::2], strict=True))
        return CachedRepository(**vars(repository), kv_caches=keys_values)

    def _add(self, seen: Tensor, timestamps: Tensor, encode: Callable[[Tensor], Tensor]) -> None:
        start = len(self)
        for block, real in aligned_blocks(seen, start):
            parts = self._read(encode(block), start - real.start)
            per_frame = len(parts[0]) // BLOCK_FRAMES
            if not self._parts:
                room = max(self._expected_frames, len(seen)) * per_frame
                self._parts = [AppendBuffer(part, room) for part in parts]
            for rows, part in zip(self._parts, parts, strict=True):
                rows.write(part[real.start * per_frame : real.stop * per_frame], start * per_frame)
            start += real.stop - real.start
        self._timestamps.write(timestamps, len(self))
        self._num_frames = start  # only now: what broke off half way is overwritten

    def _read(self, tokens: Tensor, first_frame: int) -> list[Tensor]:
        """What is kept of a block of frames `(frames, tokens, dim)`: a row for each of their tokens and ends."""
        model, self._side = self._model, math.isqrt(tokens.shape[1])
        laid_out = append_newline(tokens, model.frame_newline).flatten(
            0, 1
        )  # (frames * (tokens + 1), dim)
        first = first_frame * (tokens.shape[1] + 1)
        positions = torch.arange(
            first, first + len(laid_out), device=tokens.device
        )  # (frames * (tokens + 1),)
        keys_values = (
            model.memaug.build_kv_caches(laid_out, positions, model.frame_newline.dtype)
            if model.settings.use_full_memory
            else ()
        )
        return [
            laid_out,
            positions,
            *(part for each in keys_values for part in (each.keys, each.values)),
        ]


def aligned_blocks(rows: Tensor, start: int) -> Iterator[tuple[Tensor, slice]]:
    """Cut rows into blocks that are counted from the beginning of the sequence, and fill them up with zeros.

    A product of matrices may round a row by its place and by how many there are; so both stay the same.

    Args:
        rows: `(rows, ...)`.
        start: rows of the sequence that came before.

    Yields:
        `(BLOCK_FRAMES, ...)`, and where in it the rows are that were given.
    """
    while len(rows):
        first = start % BLOCK_FRAMES
        given, rows = rows.split([num := min(BLOCK_FRAMES - first, len(rows)), len(rows) - num])
        block = given
        if num < BLOCK_FRAMES:
            block = rows.new_zeros(BLOCK_FRAMES, *rows.shape[1:])  # (BLOCK_FRAMES, ...)
            block[first : first + num] = given
        yield block, slice(first, first + num)
        start += num


def _with_content(video: Video, content: Tensor) -> Video:
    timestamps = content.new_zeros(len(content), dtype=torch.float32)  # (frames,)
    return (
        Frames(content, timestamps)
        if isinstance(video, Frames)
        else replace(video, tokens=content, timestamps=timestamps)
    )
