"""A memory repository of a video to which frames are appended, with its KV caches.

Appending neither computes nor copies earlier frames again, so a minute costs the same at any hour.
Entry point: `StreamingRepository`.
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
    DenseTokens,
    MemoryRepository,
    TokenGrid,
    append_newline,
    build_video_repository,
)
from lit_hour.types import Frames, Video

BLOCK_FRAMES = 8  # frames computed at once; more are hardly faster, and one frame costs as much


class AppendBuffer:
    """A growable array of rows; its capacity doubles when it is full.

    Attributes:
        data: `(capacity, ...)`. It is replaced when the capacity grows, so a view of the rows
            before stays valid.
    """

    def __init__(self, like: Tensor, num_rows: int) -> None:
        """Allocate the buffer.

        Args:
            like: `(any, ...)`, with the shape of a row, the dtype and the device.
            num_rows: capacity.
        """
        self.data = like.new_empty(num_rows, *like.shape[1:])  # (capacity, ...)

    def write(self, rows: Tensor, start: int) -> None:
        """Write rows `(rows, ...)` after the first `start` ones."""
        end = start + len(rows)
        if end > len(self.data):
            capacity = max(end, 2 * len(self.data))
            larger = self.data.new_empty(capacity, *self.data.shape[1:])  # (capacity, ...)
            larger[:start] = self.data[:start]
            self.data = larger
        self.data[start:end] = rows


class StreamingRepository:
    """The memory repository of a video that may go on.

    Frames are computed in blocks that are aligned to the start of the video, so that the result is
    the same bit for bit, however the video was cut into pieces.
    """

    def __init__(self, model: HourLLaVA, num_frames: int = 0) -> None:
        """Create an empty repository.

        Args:
            model: encodes the frames.
            num_frames: expected number of frames; there may be more.
        """
        self._model, self._expected_frames = model, num_frames
        self._timestamps = AppendBuffer(
            torch.empty(0, device=model.frame_newline.device), num_frames
        )
        self._buffers: list[AppendBuffer] = []  # tokens, positions, keys and values of each block
        self._num_frames = 0
        self._side = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._num_frames

    @property
    def buffers(self) -> list[Tensor]:
        """All memory that the repository holds, with spare capacity."""
        return [buffer.data for buffer in (self._timestamps, *self._buffers)]

    @torch.inference_mode()
    def append(self, video: Video) -> None:
        """Encode and append the next frames."""
        content = video.images if isinstance(video, Frames) else video.tokens  # (frames, ...)
        self._append(
            content,
            video.timestamps,
            lambda block: self._model.encode_frames(_with_content(video, block)),
        )

    @torch.inference_mode()
    def append_encoded(self, tokens: Tensor, timestamps: Tensor) -> None:
        """Append tokens `(frames, tokens, dim)` of `HourLLaVA.encode_frames`, and their times."""
        self._append(tokens, timestamps, lambda block: block)

    def fork_and_extend(self, num_frames: int, video: Video) -> StreamingRepository:
        """Append frames after the first `num_frames`, in a copy if other frames follow those."""
        with self._lock:
            if num_frames == len(self):
                self.append(video)
                return self
        fork = StreamingRepository(self._model, num_frames + len(video))
        fork.append_encoded(*self.encoded(num_frames))
        fork.append(video)
        return fork

    def encoded(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Return the first frames for `append_encoded`: `(frames, tokens, dim)` and `(frames,)`."""
        frame_length = self._side**2 + 1
        tokens = self._buffers[0].data[: num_frames * frame_length]  # (tokens, dim)
        tokens = tokens.unflatten(0, (num_frames, frame_length))  # (frames, tokens + 1, dim)
        return tokens[:, :-1], self._timestamps.data[:num_frames]

    @torch.inference_mode()
    def repository(self, num_frames: int) -> MemoryRepository:
        """Return the memory repository of the first frames; appending does not change it."""
        model, min_frames = self._model, self._model.config.memaug.min_frames
        if num_frames < min_frames:
            tokens, timestamps = self.encoded(num_frames)  # (frames, tokens, dim), (frames,)
            return model.with_kv_cache(
                build_video_repository(tokens, model.frame_newline, timestamps, min_frames)
            )
        grid = TokenGrid(num_frames, self._side, self._side)
        num_tokens = num_frames * grid.num_tokens
        tokens, positions, *rest = (buffer.data[:num_tokens] for buffer in self._buffers)
        return MemoryRepository(
            DenseTokens(tokens),
            positions,
            (grid,),
            self._timestamps.data[:num_frames],
            kv_caches=tuple(map(KVCache, rest[::2], rest[1::2])),
        )

    def _append(
        self, content: Tensor, timestamps: Tensor, encode: Callable[[Tensor], Tensor]
    ) -> None:
        """Append frames; `encode` computes the tokens `(frames, tokens, dim)` of a block."""
        start = len(self)
        for block, new in aligned_blocks(content, start):
            parts = self._compute(encode(block), start - new.start)
            frame_length = len(parts[0]) // BLOCK_FRAMES
            if not self._buffers:
                capacity = max(self._expected_frames, len(content)) * frame_length
                self._buffers = [AppendBuffer(part, capacity) for part in parts]
            rows = slice(new.start * frame_length, new.stop * frame_length)
            for buffer, part in zip(self._buffers, parts, strict=True):
                buffer.write(part[rows], start * frame_length)
            start += new.stop - new.start
        self._timestamps.write(timestamps, len(self))
        self._num_frames = start  # last, so that frames of a failed call are overwritten

    def _compute(self, tokens: Tensor, first_frame: int) -> list[Tensor]:
        """Compute the rows of a block of frames, one for each token and newline.

        Args:
            tokens: `(frames, tokens, dim)`.
            first_frame: index of the block's first frame in the video.

        Returns:
            Tokens, positions, and the keys and values of each block of MemAug.
        """
        model, self._side = self._model, math.isqrt(tokens.shape[1])
        rows = append_newline(tokens, model.frame_newline).flatten(0, 1)  # (rows, dim)
        first = first_frame * (tokens.shape[1] + 1)
        positions = torch.arange(first, first + len(rows), device=tokens.device)  # (rows,)
        repository = model.with_kv_cache(
            MemoryRepository(DenseTokens(rows), positions, (), positions[:0])
        )
        caches = repository.kv_caches
        return [rows, positions, *(part for kv in caches for part in (kv.keys, kv.values))]


def aligned_blocks(rows: Tensor, start: int) -> Iterator[tuple[Tensor, slice]]:
    """Cut rows into blocks that are aligned to the start of the sequence, padded with zeros.

    A matrix product may round a row differently by its index and the number of rows. Aligned blocks
    of one size keep both the same.

    Args:
        rows: `(rows, ...)`.
        start: number of earlier rows of the sequence.

    Yields:
        A block `(BLOCK_FRAMES, ...)`, and the slice of it that holds rows of the sequence.
    """
    while len(rows):
        first = start % BLOCK_FRAMES
        num = min(BLOCK_FRAMES - first, len(rows))
        new, rows = rows[:num], rows[num:]
        block = new
        if num < BLOCK_FRAMES:
            block = new.new_zeros(BLOCK_FRAMES, *new.shape[1:])  # (BLOCK_FRAMES, ...)
            block[first : first + num] = new
        yield block, slice(first, first + num)
        start += num


def _with_content(video: Video, content: Tensor) -> Video:
    timestamps = content.new_zeros(len(content), dtype=torch.float32)  # (frames,)
    if isinstance(video, Frames):
        return Frames(content, timestamps)
    return replace(video, tokens=content, timestamps=timestamps)
