"""The videos that features are extracted from: shards of frames, tars of others, or files.

All give the frames of a video in chunks, and copy samples of other modalities.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config
from lit_hour.data.datasets import decode_frames
from lit_hour.data.external.webdataset import open_webdataset
from lit_hour.data.packing.decode_worker import (
    DecodeRequest,
    EncodedImage,
    SampleSummary,
    decode_sample,
    summarize_video,
)
from lit_hour.data.packing.sample_subtitles import load_sample_subtitles
from lit_hour.data.packing.shard_plan import frame_config, plan_shards
from lit_hour.data.packing.shard_writer import sample_json, write_sample
from lit_hour.data.questions.record import Modality, SampleSpec
from lit_hour.data.shards.reader import Shards, StoredSample, open_shards
from lit_hour.data.shards.shard_index import FileStamp, IndexEntry, SkippedSample
from lit_hour.data.sources import check_videos
from lit_hour.errors import ShardError, VideoError
from lit_hour.io.urls import is_url, redact
from lit_hour.media.image_reader import image_suffix
from lit_hour.media.subtitles import SubtitleWarning
from lit_hour.media.video_reader import SampledVideo

NO_FRAMES = torch.empty(0, 3, 0, 0, dtype=torch.uint8)  # (0, 3, 0, 0)


@dataclass(frozen=True)
class SampleRef:
    """A stored sample by its shard and its index inside the shard, both from 0."""

    shard: int
    index: int


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames of a video, or the end of the video.

    Attributes:
        ref: of the video.
        images: `(frames, 3, size, size)` uint8; no frame at the end.
        num_frames: of the whole video; a damaged one may end earlier.
        metadata: at the end, the content of the video's `KEY.json`.
        error: at the end instead, why the video cannot be read.
    """

    ref: SampleRef
    images: Tensor
    num_frames: int
    metadata: bytes = b""
    error: str = ""

    def to(self, device: torch.device) -> FrameChunk:
        """Return the same frames on another device."""
        return replace(self, images=self.images.to(device, non_blocking=True))


class FeatureSource(Protocol):
    """Samples that features are extracted from, grouped by the shards to be written.

    Attributes:
        cost_unit: unit of a video's cost.
        config: settings that determine the frames.
        origin: where the frames are, with absolute paths.
    """

    cost_unit: str
    num_shards: int
    origin: SourceConfig
    config: dict[str, Any]

    def fingerprint(self, shard: int) -> str:
        """Return a hash of everything that a shard is made from."""

    def stamp_files(self, shard: int) -> dict[str, FileStamp]:
        """Return the stamps of the files that a shard is made from; none if from shards."""

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return samples that are missing already."""

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return the modality of each sample of a shard, and its name for messages."""

    def cost(self, ref: SampleRef) -> int:
        """Return the estimated work of a video."""

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the frames of a video, then its end.

        Raises:
            ShardError, VideoError: it cannot be read.
        """

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Write a sample that is not a video, unchanged.

        Raises:
            ShardError, ImageError: it cannot be read.
        """


class _ShardSource:
    """Samples that the indexes of tars list."""

    def __init__(self, shards: Shards, config: Config) -> None:
        self._shards, self._config = shards, config
        self.num_shards = len(shards.indexes)

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return the samples that the index leaves out."""
        return self._shards.indexes[shard].skipped

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return modality and key of each sample."""
        return [(entry.modality, entry.key) for entry in self._shards.indexes[shard].entries]

    def _entry(self, ref: SampleRef) -> IndexEntry:
        return self._shards.indexes[ref.shard].entries[ref.index]


class FrameShardSource(_ShardSource):
    """A folder of shards that store frames."""

    cost_unit = "frame"

    def __init__(self, folder: str, config: Config) -> None:
        """Open the shards.

        Raises:
            ShardError: they are missing, corrupt, or store features.
            ConfigError: their frames were sampled with other settings.
        """
        super().__init__(open_shards(folder, config.data), config)
        check_videos(self._shards, config)
        if self._shards.feature_metadata():
            raise ShardError(
                f"{self._shards.name} already stores features."
                " Give the shards of frames that they were extracted from."
            )
        self.config = self._shards.indexes[0].config
        self.origin = SourceConfig(_absolute(folder), kind="packed")

    def fingerprint(self, shard: int) -> str:
        """Return the SHA-256 of the tar."""
        return self._shards.indexes[shard].sha256

    def stamp_files(self, shard: int) -> dict[str, FileStamp]:
        """Return nothing: the tar is known by its SHA-256."""
        return {}

    def cost(self, ref: SampleRef) -> int:
        """Return the number of frames."""
        return self._entry(ref).num_frames

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the stored frames in batches of the vision encoder, then the end."""
        stored = self._shards.read(self._entry(ref))
        yield from _frame_chunks(ref, stored, self._config)

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Write the same bytes, after checking them."""
        entry, start = self._entry(ref), stream.tell()
        self._shards.read(entry)
        stream.write(self._shards.read_raw(entry))
        return replace(entry, shard=f"{ref.shard:06d}.tar", offset=start)


class TarSource(_ShardSource):
    """Tars of other projects: their videos are decoded for the vision encoder."""

    cost_unit = "B"

    def __init__(self, source: SourceConfig, config: Config) -> None:
        """Open the tars, and make the indexes that are missing.

        Raises:
            ShardError, ConfigError: see `open_webdataset`.
        """
        super().__init__(open_webdataset(source, config), config)
        self.config = {**self._shards.indexes[0].config, **frame_config(config.video)}
        self.origin = replace(
            source,
            kind="webdataset",
            shards=_absolute(source.shards),
            mapping=_absolute(source.mapping),
            index_folder=_absolute(source.index_folder),
        )

    def fingerprint(self, shard: int) -> str:
        """Return the hash of the tar, the mapping and the sampled frames."""
        return self._shards.indexes[shard].fingerprint

    def stamp_files(self, shard: int) -> dict[str, FileStamp]:
        """Return the stamp of the tar."""
        return self._shards.indexes[shard].files

    def cost(self, ref: SampleRef) -> int:
        """Return the size of the sample in its tar."""
        return self._entry(ref).num_bytes

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the sampled frames, then the end."""
        stored = self._shards.read(self._entry(ref))
        if stored.video is None:
            yield from _frame_chunks(ref, stored, self._config)
            return
        with stored.video.open() as path:
            yield from _video_chunks(ref, path, stored, self._config)

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Write the images with their questions, or the questions alone, in our own format."""
        entry, start = self._entry(ref), stream.tell()
        stored = self._shards.read(entry)
        messages: list[EncodedImage | SampleSummary] = [
            EncodedImage(image_suffix(content, name), content) for name, content in stored.images
        ]
        messages.append(SampleSummary(0.0, (), entry.size_pixels))
        written = write_sample(stream, f"{ref.shard:06d}.tar", stored, messages)
        stream.seek(start + written.num_bytes)
        stream.truncate()  # the end of an archive behind the members
        return written


class VideoFileSource:
    """A folder of files with a question file, in the shards that `lit-hour pack` would make."""

    cost_unit = "B"

    def __init__(self, folder: Path, questions: Path, target: Path, config: Config) -> None:
        """Plan the shards of `target`, which may have some already.

        Raises:
            QuestionError: the question file is invalid, or names files that are not in the folder.
        """
        self._config = config
        self._plans = plan_shards(folder, questions, target, config.video, config.pack)
        self.num_shards = len(self._plans)
        stored_config = self._plans[0].config.items()
        self.config = {key: value for key, value in stored_config if key != "jpeg_quality"}
        self.origin = SourceConfig(
            _absolute(str(folder)), kind="files", questions=_absolute(str(questions))
        )

    def fingerprint(self, shard: int) -> str:
        """Return the fingerprint of the shard that packing would make."""
        return self._plans[shard].fingerprint

    def stamp_files(self, shard: int) -> dict[str, FileStamp]:
        """Return the stamp of each file."""
        return self._plans[shard].stamp_files()

    def skipped(self, shard: int) -> tuple[SkippedSample, ...]:
        """Return the records of the question file that cannot be used."""
        return self._plans[shard].skipped

    def samples(self, shard: int) -> Sequence[tuple[Modality, str]]:
        """Return modality and file of each sample."""
        return [(sample.modality, sample.name) for sample in self._plans[shard].samples]

    def cost(self, ref: SampleRef) -> int:
        """Return the size of the file: the number of frames is known only after opening it."""
        return self._video_path(ref).stat().st_size

    def chunks(self, ref: SampleRef) -> Iterator[FrameChunk]:
        """Yield the sampled frames, before they become JPEGs, then the end."""
        plan = self._plans[ref.shard]
        sample, invalid = load_sample_subtitles(plan.folder, plan.samples[ref.index])
        for reason in invalid:
            warnings.warn(reason, SubtitleWarning, stacklevel=2)
        yield from _video_chunks(ref, self._video_path(ref), sample, self._config)

    def copy_sample(self, ref: SampleRef, stream: BinaryIO) -> IndexEntry:
        """Write the image files, or the questions alone."""
        plan, start = self._plans[ref.shard], stream.tell()
        sample = plan.samples[ref.index]
        quality = self._config.pack.jpeg_quality
        request = DecodeRequest(plan.folder, sample, self._config.video, quality)
        entry = write_sample(stream, plan.tar.name, sample, decode_sample(request))
        stream.seek(start + entry.num_bytes)
        stream.truncate()  # the end of an archive behind the members
        return entry

    def _video_path(self, ref: SampleRef) -> Path:
        plan = self._plans[ref.shard]
        return plan.folder / plan.samples[ref.index].files[0]


def _absolute(location: str) -> str:
    """Return an absolute path, or a URL without secrets; "" stays empty."""
    if not location:
        return ""
    return redact(location) if is_url(location) else str(Path(location).absolute())


def _frame_chunks(ref: SampleRef, stored: StoredSample, config: Config) -> Iterator[FrameChunk]:
    """Yield the stored frames of a video in batches of the vision encoder, then the end."""
    num_frames, size = len(stored.images), config.model.vision.encode_batch_size
    for start in range(0, num_frames, size):
        frames = range(start, min(start + size, num_frames))
        images = decode_frames(stored, frames, config.video.image_size)
        yield FrameChunk(ref, images, num_frames)
    summary = SampleSummary(stored.duration_seconds, stored.timestamps_seconds)
    yield FrameChunk(ref, NO_FRAMES, num_frames, sample_json(stored, summary))


def _video_chunks(
    ref: SampleRef, path: Path, sample: SampleSpec | StoredSample, config: Config
) -> Iterator[FrameChunk]:
    """Yield the sampled frames of a video file, then the end."""
    video = SampledVideo(path, config.video, True, sample.clip_seconds)
    num_read, num_frames = 0, len(video.timestamps)
    for frames in video.chunks(config.model.vision.encode_batch_size):
        yield FrameChunk(ref, frames.images, num_frames)
        num_read += len(frames)
    metadata = sample_json(sample, summarize_video(video, num_read))
    yield FrameChunk(ref, NO_FRAMES, num_frames, metadata)


class FrameChunkDataset(IterableDataset[FrameChunk]):
    """The chunks of some videos, one video after the other in each DataLoader worker.

    A video that cannot be read ends with a chunk that has an `error`.
    """

    def __init__(self, source: FeatureSource, refs: Sequence[SampleRef]) -> None:
        self._source, self._refs = source, refs

    def __iter__(self) -> Iterator[FrameChunk]:
        worker = get_worker_info()
        own = self._refs if worker is None else self._refs[worker.id :: worker.num_workers]
        for ref in own:
            try:
                yield from self._source.chunks(ref)
            except (ShardError, VideoError) as error:
                yield FrameChunk(ref, NO_FRAMES, 0, error=str(error))
