"""Frames that stored features were extracted from, read again from their source for display.

Entry point: `SourceFrames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config
from lit_hour.data.datasets import decode_frames
from lit_hour.data.features.writer import METADATA_NAME, ORIGIN_KEY
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.reader import LocalFolder, Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry, parse_json
from lit_hour.data.sources import open_source
from lit_hour.errors import ShardError
from lit_hour.media.video_reader import SampledVideo
from lit_hour.types import Features, Frames

TIME_TOLERANCE_SECONDS = 0.01  # a time in a batch is a float32


class SourceFrames:
    """Finds the frames of videos that a run reads as features."""

    def __init__(self, sources: Sequence[Shards], config: Config) -> None:
        self._sources, self._config = sources, config
        self._origins: dict[str, tuple[SourceConfig, Shards | None]] = {}  # by name of the shards

    def read(self, key: str, features: Features, indices: Sequence[int]) -> Frames:
        """Read some frames of a video again.

        Args:
            key: of the video.
            features: of the video.
            indices: of the frames, ascending.

        Raises:
            InputError: the features do not record their source, or it is gone or has changed.
        """
        shards, entry = self._find_entry(key, len(features))
        if shards.name not in self._origins:
            self._origins[shards.name] = self._find_origin(shards)
        origin, opened = self._origins[shards.name]
        stored = replace(shards.read(entry), tokens=None)
        times = features.timestamps[list(indices)].cpu()  # (frames,)
        if origin.kind == "files":
            path = Path(origin.shards) / stored.files[0]
            if not path.is_file():
                raise ShardError(f"{path} is missing, which the features of {key} come from.")
            stored = replace(stored, video=EncodedVideo(str(path)))
        else:
            assert opened is not None
            stored = opened.read(_entry_of(opened, key))
        images, read_times = self._decode(stored, indices)
        if (times - read_times).abs().max() > TIME_TOLERANCE_SECONDS:
            raise ShardError(
                f"{stored.location} has frames at other times than its features. Extract them"
                " again."
            )
        return Frames(images, times)

    def _decode(self, stored: StoredSample, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images `(frames, 3, image_size, image_size)` and their times, `(frames,)`."""
        video = self._config.video
        if stored.video is None:
            times = _select(stored.timestamps_seconds, indices, stored.location)
            return decode_frames(stored, indices, video.image_size), torch.tensor(times)
        with stored.video.open() as path:
            sampled = SampledVideo(path, video, True, stored.clip_seconds)
            sampled.timestamps[:] = _select(sampled.timestamps, indices, stored.location)
            chunks = list(sampled.chunks())
        return (
            torch.cat([chunk.images for chunk in chunks]),  # (frames, 3, image_size, image_size)
            torch.cat([chunk.timestamps for chunk in chunks]),  # (frames,)
        )

    def _find_entry(self, key: str, num_frames: int) -> tuple[Shards, IndexEntry]:
        for shards in self._sources:
            for index in shards.indexes:
                for entry in index.entries if index.features else ():
                    if entry.key == key and entry.num_frames >= num_frames:
                        return shards, entry
        raise ShardError(f"No source has features of {key}.")

    def _find_origin(self, shards: Shards) -> tuple[SourceConfig, Shards | None]:
        """Return where features come from, opened unless it is a folder of files."""
        if not isinstance(shards.folder, LocalFolder):
            raise ShardError(f"{shards.name} is not on a disk, so where it comes from is unknown.")
        file = shards.folder.path / METADATA_NAME
        record: dict[str, Any] = parse_json(file.read_bytes(), str(file)) if file.is_file() else {}
        if ORIGIN_KEY not in record:
            raise ShardError(
                f"{file} does not record where the frames are. Run the same `lit-hour"
                " extract-features` command again: it keeps the features and adds the record."
            )
        origin = SourceConfig(**record[ORIGIN_KEY])
        return origin, None if origin.kind == "files" else open_source(origin, self._config)


def _entry_of(shards: Shards, key: str) -> IndexEntry:
    for entry in shards.entries:
        if entry.key == key and entry.modality == "video":
            return entry
    raise ShardError(f"{shards.name} no longer has the video {key}.")


def _select(values: Sequence[float], indices: Sequence[int], location: str) -> list[float]:
    if max(indices) >= len(values):
        raise ShardError(f"{location} has {len(values)} frames, fewer than its features.")
    return [values[index] for index in indices]
