"""Inputs of feature extraction: frame shards (`FrameShardSource`) or files (`VideoFileSource`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lit_hour.config.schema import Config
from lit_hour.data.packing.decode_worker import DecodeRequest, decode_sample
from lit_hour.data.packing.shard_plan import ShardPlan, plan_shards
from lit_hour.data.packing.shard_writer import sample_json, write_sample
from lit_hour.data.questions.record import Modality
from lit_hour.data.shards.decode import decode_frames
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.shards.shard_index import IndexEntry, SkippedSample
from lit_hour.data.shards.storage import ShardCache
from lit_hour.data.sources import check_videos, feature_metadata_of
from lit_hour.errors import ShardError, VideoError
from lit_hour.media.frame_sampling import sample_timestamps
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import read_frames

NO_FRAMES = torch.empty(0, 3, 0, 0, dtype=torch.uint8)  # (0, 3, 0, 0)


@dataclass(frozen=True)
class SampleRef:
    """Position of a sample: zero-based indices of the shard and of the sample in the shard."""

    shard: int
    index: int


@dataclass(frozen=True)
class FrameChunk:
    """A batch of consecutive frames of a video, or the end-of-video marker.

    Attributes:
        ref: position of the video.
        images: `(frames, 3, size, size)` uint8; empty in the end marker.
        num_frames: expected number of frames of the video; a damaged video may have fewer.
        metadata: content of the video's `KEY.json`; in the end marker only.
        error: why the video cannot be read; in the end marker only, which has no metadata then.
    """

    ref: SampleRef
    images: Tensor
    num_frames: int
    metadata: bytes = b""
    error: str = ""

    def to(self, device: torch.device) -> FrameChunk:
        """Copy the frames to another device."""
        return replace(self, images=self.images.to(device, non_blocking=True))


class FeatureSource(Protocol):
    """Samples to encode, grouped into the shards to write."""

    cost_unit: str  # unit of `cost`
    num_shards: int
    config: dict[str, Any]  # settings that the frames depend on

    def fingerprint(self, shard: int) -> str:
        """Return the SHA-256 of all inputs of a shard."""

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return the samples that packing skipped."""

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return the modality and the display name of each sample of a shard."""

    def cost(self, ref: SampleRef) -> int:
        """Return the relative cost of encoding a video, in `cost_unit`."""

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the frames of a video in chunks, then the end marker.

        Raises:
            ShardError, VideoError: the video cannot be read.
        """

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Append a sample other than a video to a tar, unchanged.

        Raises:
            ShardError, ImageError: the sample cannot be read.
        """


class FrameShardSource:
    """Feature source that reads shards of frames."""

    cost_unit = "frame"

    def __init__(self, folder: str, config: Config) -> None:
        """Open the shards.

        Raises:
            ShardError: the shards are missing, damaged, or already contain features.
            ConfigError: their frames were sampled with other settings.
        """
        self._config = config
        self._shards: Shards = open_shards(folder, ShardCache.from_config(config.data))
        check_videos(self._shards, config)
        if feature_metadata_of([self._shards]):
            raise ShardError(
                f"{self._shards.folder} already contains features."
                " Give the shards of frames that they were made from"
            )
        self.num_shards = len(self._shards.indexes)
        self.config = self._shards.indexes[0].config

    def fingerprint(self, shard: int) -> str:
        """Return the SHA-256 of the tar."""
        return self._shards.indexes[shard].sha256

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return the samples that packing skipped."""
        return self._shards.indexes[shard].skipped

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return the modality and the key of each sample."""
        return [(sample.modality, sample.key) for sample in self._shards.indexes[shard].entries]

    def cost(self, ref: SampleRef) -> int:
        """Return the number of frames of a video."""
        return self._record(ref).num_frames

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the stored frames in batches of the vision encoder, then the end marker."""
        settings, stored = self._config, self._shards.read(self._record(ref))
        num_frames, size = len(stored.images), settings.model.vision.encode_batch_size
        for start in range(0, num_frames, size):
            chosen = range(start, min(start + size, num_frames))
            yield FrameChunk(
                ref, decode_frames(stored, chosen, settings.video.image_size), num_frames
            )
        metadata = sample_json(stored, stored.duration_seconds, stored.timestamps_seconds)
        yield FrameChunk(ref, NO_FRAMES, num_frames, metadata)

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Append the raw bytes of a sample, after checking that they can be parsed."""
        record, start = self._record(ref), stream.tell()
        self._shards.read(record)
        stream.write(self._shards.read_raw(record))
        return replace(record, shard=f"{ref.shard:06d}.tar", offset=start)

    def _record(self, ref: SampleRef) -> IndexEntry:
        return self._shards.indexes[ref.shard].entries[ref.index]


class VideoFileSource:
    """Feature source that reads files, grouped into the shards that `lit-hour pack` would write."""

    cost_unit = "B"

    def __init__(self, folder: Path, questions: Path, config: Config) -> None:
        """Plan the shards.

        Raises:
            QuestionError: the question file is invalid, or refers to missing files.
        """
        self._config = config
        self._plans: tuple[ShardPlan, ...] = plan_shards(
            folder, questions, Path(), config.video, config.pack
        )
        self.num_shards = len(self._plans)
        self.config = {
            name: value for name, value in self._plans[0].config.items() if name != "jpeg_quality"
        }

    def fingerprint(self, shard: int) -> str:
        """Return the fingerprint of the shard that packing would write."""
        return self._plans[shard].fingerprint

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return an empty tuple: nothing is skipped before encoding."""
        return ()

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return the modality and the file of each sample."""
        return [(sample.modality, sample.name) for sample in self._plans[shard].samples]

    def cost(self, ref: SampleRef) -> int:
        """Return the size of the video file; its number of frames is unknown until it is opened."""
        plan = self._plans[ref.shard]
        return (plan.folder / plan.samples[ref.index].files[0]).stat().st_size

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the frames that packing would sample, uncompressed, then the end marker."""
        plan, settings = self._plans[ref.shard], self._config.video
        sample = plan.samples[ref.index]
        path = plan.folder / sample.files[0]
        seconds = probe(path).duration_seconds
        timestamps = sample_timestamps(
            seconds, settings.fps, settings.min_frames, settings.max_frames
        )
        num_read, chunk_frames = 0, self._config.model.vision.encode_batch_size
        size, on_decode_error, keyframes_only = (
            settings.image_size,
            settings.on_decode_error,
            settings.keyframes_only,
        )
        for frames in read_frames(
            path, timestamps, size, on_decode_error, chunk_frames, keyframes_only
        ):
            yield FrameChunk(ref, frames.images, len(timestamps))
            num_read += len(frames)
        if num_read < len(timestamps):
            seconds = timestamps[num_read]  # a damaged video ends at its first missing frame
        yield FrameChunk(
            ref, NO_FRAMES, len(timestamps), sample_json(sample, seconds, timestamps[:num_read])
        )

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Append the image files and the questions of a sample."""
        plan, start = self._plans[ref.shard], stream.tell()
        files = DecodeRequest(
            plan.folder,
            plan.samples[ref.index],
            self._config.video,
            self._config.pack.jpeg_quality,
        )
        record = write_sample(stream, plan.tar.name, files.sample, decode_sample(files))
        stream.seek(start + record.num_bytes)
        stream.truncate()  # drop the end-of-archive blocks
        return record


class FrameChunkDataset(IterableDataset[FrameChunk]):
    """Chunks of several videos, each decoded by one DataLoader worker.

    A video that cannot be read ends with a chunk that contains the error.
    """

    def __init__(self, source: FeatureSource, refs: Sequence[SampleRef]) -> None:
        self._source, self._refs = source, refs

    def __iter__(self) -> Iterator[FrameChunk]:
        worker = get_worker_info()
        refs = self._refs if worker is None else self._refs[worker.id :: worker.num_workers]
        for ref in refs:
            try:
                yield from self._source.chunks(ref)
            except (ShardError, VideoError) as error:
                yield FrameChunk(ref, NO_FRAMES, 0, error=str(error))
