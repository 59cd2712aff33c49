"""A memory repository of a video to which frames are appended, with its KV caches.

Appending neither computes nor copies earlier frames again, so a minute costs the same at any hour.
Entry point: `StreamingRepository`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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

    Attributes:
        num_frames: appended so far.
    """

    def __init__(self, model: HourLLaVA, num_frames: int = 0) -> None:
        """Create an empty repository.

        Args:
            model: encodes the frames.
            num_frames: expected number of frames; there may be more.
        """
        self.num_frames = 0
        self._model, self._expected_frames = model, num_frames
        self._timestamps = AppendBuffer(
            torch.empty(0, device=model.frame_newline.device), num_frames
        )
        self._buffers: list[AppendBuffer] = []  # tokens, positions, keys and values of each block
        self._side = 0
        self._lock = Lock()

    @property
    def buffers(self) -> list[Tensor]:
        """All memory that the repository holds, with spare capacity."""
        return [buffer.data for buffer in (self._timestamps, *self._buffers)]

    @torch.inference_mode()
    def append(self, video: Video) -> None:
        """Encode and append the next frames."""
        self._write_blocks(self._encode_blocks(video), video.timestamps)

    @torch.inference_mode()
    def append_encoded(self, tokens: Tensor, timestamps: Tensor) -> None:
        """Append frames that were encoded before.

        Args:
            tokens: `(frames, tokens, dim)`, as `HourLLaVA.encode_frames` returns them.
            timestamps: `(frames,)` in seconds.
        """
        self._write_blocks(aligned_blocks(tokens, self.num_frames), timestamps)

    def fork_and_extend(self, num_frames: int, video: Video) -> StreamingRepository:
        """Append frames after the first `num_frames`: in place, or in a copy if others follow."""
        with self._lock:
            if num_frames == self.num_frames:
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

    def _encode_blocks(self, video: Video) -> Iterator[tuple[Tensor, slice]]:
        """Yield the tokens `(BLOCK_FRAMES, tokens, dim)` of each block, and its new frames."""
        content = video.images if isinstance(video, Frames) else video.tokens  # (frames, ...)
        for block, new in aligned_blocks(content, self.num_frames):
            timestamps = block.new_zeros(len(block), dtype=torch.float32)  # (BLOCK_FRAMES,)
            if isinstance(video, Frames):
                block_video: Video = Frames(block, timestamps)
            else:
                block_video = replace(video, tokens=block, timestamps=timestamps)
            yield self._model.encode_frames(block_video), new

    def _write_blocks(self, blocks: Iterator[tuple[Tensor, slice]], timestamps: Tensor) -> None:
        """Append blocks of encoded frames with their newlines, positions and KV caches.

        Args:
            blocks: tokens `(BLOCK_FRAMES, tokens, dim)`, and which of these frames are new.
            timestamps: `(frames,)`, of the new frames of all blocks.
        """
        model, start = self._model, self.num_frames
        for tokens, new in blocks:
            rows = append_newline(tokens, model.frame_newline).flatten(0, 1)  # (rows, dim)
            frame_length = len(rows) // BLOCK_FRAMES
            first = (start - new.start) * frame_length  # the block begins at an earlier frame
            positions = torch.arange(first, first + len(rows), device=rows.device)  # (rows,)
            caches = model.memaug.build_kv_caches(
                DenseTokens(rows), positions, model.frame_newline.dtype
            )
            parts = [rows, positions, *(part for kv in caches for part in (kv.keys, kv.values))]
            if not self._buffers:
                self._side = math.isqrt(tokens.shape[1])
                capacity = max(self._expected_frames, len(timestamps)) * frame_length
                self._buffers = [AppendBuffer(part, capacity) for part in parts]
            new_rows = slice(new.start * frame_length, new.stop * frame_length)
            for buffer, part in zip(self._buffers, parts, strict=True):
                buffer.write(part[new_rows], start * frame_length)
            start += new.stop - new.start
        self._timestamps.write(timestamps, self.num_frames)
        self.num_frames = start  # last, so that frames of a failed call are overwritten


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
