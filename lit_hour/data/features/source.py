"""Shards of frames, or files and questions about them -> chunks of frames for the vision encoder, and copies of the rest."""

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
    """Where a subject stands: in which shard, and as the how many-th of it, both counted from 0."""

    shard: int
    index: int


@dataclass(frozen=True)
class FrameChunk:
    """Some frames of a video on their way to the vision encoder, or its end.

    Attributes:
        place: of the video.
        images: `(frames, 3, size, size)` uint8; none at the end.
        num_frames: of the whole video; one that turns out to be damaged may end before.
        metadata: at the end, the content of the video's `KEY.json`.
        damage: at the end, why the video cannot be read; it has no metadata then.
    """

    ref: SampleRef
    images: Tensor
    num_frames: int
    metadata: bytes = b""
    error: str = ""

    def to(self, device: torch.device) -> FrameChunk:
        """The same frames on another device."""
        return replace(self, images=self.images.to(device, non_blocking=True))


class FeatureSource(Protocol):
    """What is to be encoded, in the shards that it becomes."""

    cost_unit: str  # of a video's cost
    num_shards: int
    config: dict[str, Any]  # that decide the frames

    def fingerprint(self, shard: int) -> str:
        """Of everything that a shard is made from."""

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Subjects that are not there any more."""

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """The kind of each subject of a shard, and how messages call it."""

    def cost(self, place: SampleRef) -> int:
        """The work that a video makes."""

    def chunks(self, place: SampleRef) -> Iterator[FrameChunk]:
        """The frames of a video, then its end.

        Raises:
            ShardError, VideoError: it cannot be read.
        """

    def copy_sample(self, place: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Write a subject that is no video as it is.

        Raises:
            ShardError, ImageError: it cannot be read.
        """


class FrameShardSource:
    """A folder of shards that hold frames."""

    cost_unit = "frame"

    def __init__(self, folder: str, config: Config) -> None:
        """Open them.

        Raises:
            ShardError: they are missing, damaged, or hold features already.
            ConfigError: their frames were taken by other settings.
        """
        self._config = config
        self._shards: Shards = open_shards(folder, ShardCache.from_config(config.data))
        check_videos(self._shards, config)
        if feature_metadata_of([self._shards]):
            raise ShardError(
                f"{self._shards.folder} holds features already: give the shards of frames that they were made from"
            )
        self.num_shards = len(self._shards.indexes)
        self.config = self._shards.indexes[0].config

    def fingerprint(self, shard: int) -> str:
        """The SHA-256 of the tar."""
        return self._shards.indexes[shard].sha256

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Those that packing has skipped."""
        return self._shards.indexes[shard].skipped

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Each with its key."""
        return [(subject.modality, subject.key) for subject in self._shards.indexes[shard].entries]

    def cost(self, place: SampleRef) -> int:
        """The number of its frames."""
        return self._record(place).num_frames

    def chunks(self, place: SampleRef) -> Iterator[FrameChunk]:
        """All stored frames, so many at once as the vision encoder takes."""
        settings, stored = self._config, self._shards.read(self._record(place))
        num_frames, size = len(stored.images), settings.model.vision.encode_batch_size
        for start in range(0, num_frames, size):
            chosen = range(start, min(start + size, num_frames))
            yield FrameChunk(
                place, decode_frames(stored, chosen, settings.video.image_size), num_frames
            )
        metadata = sample_json(stored, stored.duration_seconds, stored.timestamps_seconds)
        yield FrameChunk(place, NO_FRAMES, num_frames, metadata)

    def copy_sample(self, place: SampleRef, stream: BinaryIO) -> IndexEntry:
        """The same bytes, once they were looked at."""
        record, start = self._record(place), stream.tell()
        self._shards.read(record)
        stream.write(self._shards.read_raw(record))
        return replace(record, shard=f"{place.shard:06d}.tar", offset=start)

    def _record(self, place: SampleRef) -> IndexEntry:
        return self._shards.indexes[place.shard].entries[place.index]


class VideoFileSource:
    """A folder of files and a question file about them, in the shards that `python -m lit_hour pack` would make of them."""

    cost_unit = "B"

    def __init__(self, folder: Path, questions: Path, config: Config) -> None:
        """Plan the shards.

        Raises:
            QuestionError: the question file cannot be used, or names files that are not in the folder.
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
        """That of the shard that packing would make."""
        return self._plans[shard].fingerprint

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """None."""
        return ()

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Each with its file."""
        return [(subject.modality, subject.name) for subject in self._plans[shard].samples]

    def cost(self, place: SampleRef) -> int:
        """The size of its file: to know the frames, each file would have to be opened."""
        plan = self._plans[place.shard]
        return (plan.folder / plan.samples[place.index].files[0]).stat().st_size

    def chunks(self, place: SampleRef) -> Iterator[FrameChunk]:
        """The frames that packing would take, before they become JPEGs."""
        plan, settings = self._plans[place.shard], self._config.video
        subject = plan.samples[place.index]
        path = plan.folder / subject.files[0]
        seconds = probe(path).duration_seconds
        timestamps = sample_timestamps(
            seconds, settings.fps, settings.min_frames, settings.max_frames
        )
        num_read, chunk_frames = 0, self._config.model.vision.encode_batch_size
        size, on_damage, key_frames_only = (
            settings.image_size,
            settings.on_decode_error,
            settings.keyframes_only,
        )
        for frames in read_frames(path, timestamps, size, on_damage, chunk_frames, key_frames_only):
            yield FrameChunk(place, frames.images, len(timestamps))
            num_read += len(frames)
        if num_read < len(timestamps):
            seconds = timestamps[
                num_read
            ]  # a damaged video lasts until the first frame that is missing
        yield FrameChunk(
            place, NO_FRAMES, len(timestamps), sample_json(subject, seconds, timestamps[:num_read])
        )

    def copy_sample(self, place: SampleRef, stream: BinaryIO) -> IndexEntry:
        """The picture files, or nothing but the questions."""
        plan, start = self._plans[place.shard], stream.tell()
        files = DecodeRequest(
            plan.folder,
            plan.samples[place.index],
            self._config.video,
            self._config.pack.jpeg_quality,
        )
        record = write_sample(stream, plan.tar.name, files.sample, decode_sample(files))
        stream.seek(start + record.num_bytes)
        stream.truncate()  # the end of an archive, which is not the end of this one
        return record


class FrameChunkDataset(IterableDataset[FrameChunk]):
    """The chunks of some videos, one video after the other in each worker; one that cannot be read ends with its damage."""

    def __init__(self, source: FeatureSource, places: Sequence[SampleRef]) -> None:
        self._source, self._places = source, places

    def __iter__(self) -> Iterator[FrameChunk]:
        worker = get_worker_info()
        mine = self._places if worker is None else self._places[worker.id :: worker.num_workers]
        for place in mine:
            try:
                yield from self._source.chunks(place)
            except (ShardError, VideoError) as error:
                yield FrameChunk(place, NO_FRAMES, 0, error=str(error))
