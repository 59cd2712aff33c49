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
from torch.distributed import ProcessGroup

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import (
    DenseTokens,
    KVCache,
    MemoryRepository,
    TokenGrid,
    append_newline,
    build_video_repository,
)
from lit_hour.model.sharded_memory import ShardedTokens
from lit_hour.types import Features, Frames, Video

CHUNK_FRAMES = 8  # frames computed at once; more are hardly faster, and one frame costs as much


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

    Frames are computed in chunks that are aligned to the start of the video, so that the result is
    the same bit for bit, however the video was cut into pieces.

    Attributes:
        num_frames: appended so far.
    """

    def __init__(self, model: HourLLaVA, num_frames: int = 0, first_frame: int = 0) -> None:
        """Create an empty repository.

        Args:
            model: encodes the frames.
            num_frames: expected number of frames; there may be more.
            first_frame: index in the video of the first frame to come, a multiple of
                `CHUNK_FRAMES`; those before are on other ranks.
        """
        self.num_frames, self._first_frame = 0, first_frame
        self._model = model
        self._timestamps = AppendBuffer(model.frame_newline.new_empty(0).float(), num_frames)
        # Tokens, positions, and the keys and values of each block of MemAug.
        self._buffers: list[AppendBuffer] = []
        self._frame_length = 0  # tokens of a frame with its newline
        self._lock = Lock()

    @property
    def buffers(self) -> list[Tensor]:
        """All memory that the repository holds, with spare capacity: `(rows, ...)` each."""
        return [buffer.data for buffer in (self._timestamps, *self._buffers)]

    @torch.inference_mode()
    def append(self, video: Video) -> None:
        """Encode and append the next frames."""
        self._timestamps.write(video.timestamps, self.num_frames)
        content = video.images if isinstance(video, Frames) else video.tokens  # (frames, ...)
        chunks = aligned_chunks(content, self.num_frames)
        chunks_of_times = aligned_chunks(video.timestamps, self.num_frames)
        for (chunk, start, end), (timestamps, *_) in zip(chunks, chunks_of_times, strict=True):
            if isinstance(video, Frames):
                chunk_video: Video = Frames(chunk, timestamps)
            else:
                chunk_video = Features(chunk, timestamps)
            self._write_chunk(self._model.encode_frames(chunk_video), start, end)
        self.num_frames += len(video)  # last, so that frames of a failed call are overwritten

    @torch.inference_mode()
    def append_encoded(self, tokens: Tensor, timestamps: Tensor) -> None:
        """Append frames that were encoded before.

        Args:
            tokens: `(frames, tokens, dim)`, as `HourLLaVA.encode_frames` returns them.
            timestamps: `(frames,)` in seconds.
        """
        self._timestamps.write(timestamps, self.num_frames)
        for chunk, start, end in aligned_chunks(tokens, self.num_frames):
            self._write_chunk(chunk, start, end)
        self.num_frames += len(tokens)

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
        tokens = self._buffers[0].data[: num_frames * self._frame_length]  # (tokens, dim)
        tokens = tokens.unflatten(0, (num_frames, -1))  # (frames, tokens + 1, dim)
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
        return self._repository_of(num_frames)

    def _repository_of(self, num_frames: int) -> MemoryRepository:
        """Return the repository of the first frames, however few."""
        num_tokens = num_frames * self._frame_length
        tokens, positions, *rest = (buffer.data[:num_tokens] for buffer in self._buffers)
        side = math.isqrt(self._frame_length - 1)
        return MemoryRepository(
            DenseTokens(tokens),
            positions,
            (TokenGrid(num_frames, side, side),),
            self._timestamps.data[:num_frames],
            kv_caches=tuple(map(KVCache, rest[::2], rest[1::2])),
        )

    @torch.inference_mode()
    def sharded_repository(self, timestamps: Tensor, group: ProcessGroup) -> MemoryRepository:
        """Return the memory repository of a video that is divided over ranks.

        Args:
            timestamps: `(frames,)` of all ranks, in seconds.
            group: the ranks; each has the frames that `divide_frames` gives it.
        """
        local, num_frames = self._repository_of(self.num_frames), len(timestamps)
        num_tokens = num_frames * self._frame_length
        first = self._first_frame * self._frame_length
        return replace(
            local,
            memory=ShardedTokens(local.memory.dense(), first, num_tokens, group),
            positions=torch.arange(num_tokens, device=local.positions.device),  # (tokens,)
            grids=(replace(local.grids[0], count=num_frames),),
            timestamps=timestamps,
            kv_caches=tuple(replace(cache, group=group) for cache in local.kv_caches),
        )

    def _write_chunk(self, tokens: Tensor, start: int, end: int) -> None:
        """Write new frames of a chunk, with their newlines, positions and KV caches.

        Args:
            tokens: `(CHUNK_FRAMES, tokens, dim)`, encoded frames of an aligned chunk.
            start: index in the video of the first new frame.
            end: index after the last new frame.
        """
        model = self._model
        rows = append_newline(tokens, model.frame_newline).flatten(0, 1)  # (rows, dim)
        frame_length = len(rows) // CHUNK_FRAMES
        first = start // CHUNK_FRAMES * CHUNK_FRAMES  # index of the first frame of the chunk
        first_row = (self._first_frame + first) * frame_length  # in the video
        positions = torch.arange(len(rows), device=rows.device) + first_row  # (rows,)
        caches = model.memaug.build_kv_caches(
            DenseTokens(rows), positions, model.frame_newline.dtype
        )
        parts = [rows, positions, *(part for kv in caches for part in (kv.keys, kv.values))]
        if not self._buffers:
            self._frame_length = frame_length
            num_rows = len(self._timestamps.data) * frame_length
            self._buffers = [AppendBuffer(part, num_rows) for part in parts]
        new_rows = slice((start - first) * frame_length, (end - first) * frame_length)
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.write(part[new_rows], start * frame_length)


def aligned_chunks(rows: Tensor, start: int) -> Iterator[tuple[Tensor, int, int]]:
    """Cut rows into chunks that are aligned to the start of the sequence, padded with zeros.

    A matrix product may round a row differently by its index and the number of rows. Aligned chunks
    of one size keep both the same.

    Args:
        rows: `(rows, ...)`.
        start: number of earlier rows of the sequence.

    Yields:
        A chunk `(CHUNK_FRAMES, ...)`, and the start and end in the sequence of its given rows.
    """
    while len(rows):
        first = start % CHUNK_FRAMES
        num = min(CHUNK_FRAMES - first, len(rows))
        new, rows = rows[:num], rows[num:]
        chunk = new
        if num < CHUNK_FRAMES:
            chunk = new.new_zeros(CHUNK_FRAMES, *new.shape[1:])  # (CHUNK_FRAMES, ...)
            chunk[first : first + num] = new
        yield chunk, start, start + num
        start += num
