"""Open tars that others wrote as a source of training: `open_webdataset`."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from webdataset.shardlists import expand_urls

from lit_hour.config.data import SourceConfig
from lit_hour.config.field_mapping import FieldMapping, load_field_mapping
from lit_hour.config.schema import Config, VideoConfig
from lit_hour.data.external.entries import index_folder_of, sampled_entry, sampling_config
from lit_hour.data.external.sample_members import decode_texts, read_members
from lit_hour.data.external.sample_questions import frame_times, parse_questions
from lit_hour.data.external.tar_index import find_or_make_indexes
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.reader import Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex
from lit_hour.errors import QuestionError, ShardError
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.sample_times import sample_timestamps

TAR_SUFFIXES = (".tar",)


@dataclass(frozen=True)
class TarFiles:
    """Tars on a disk by the names of their shards."""

    paths: Mapping[str, Path]

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Return nothing: the indexes of these tars are files of their own."""
        return ()

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open a tar, unbuffered."""
        path = self.paths[index.shard]
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"Cannot read {path}: {error.strerror}.") from error


@dataclass(frozen=True)
class WebDatasetShards(Shards):
    """Tars that others wrote, with their indexes.

    Attributes:
        fields: where questions and frames are.
        video: how frames are sampled.
    """

    fields: FieldMapping
    video: VideoConfig

    def read(self, entry: IndexEntry) -> StoredSample:
        """Read one sample; its video or images stay encoded.

        Raises:
            ShardError: the tar cannot be read, or does not match its index.
        """
        location, path = self.describe_location(entry), f"{self.name}/{entry.shard}"
        with self.folder.open(self.index_of[entry.shard]) as tar:
            chosen, contents = read_members(tar, path, entry, self.fields)
        texts = decode_texts({name: contents[name] for name in chosen.texts}, location)
        files = chosen.videos or chosen.images
        num_files = len(files) if entry.modality == "images" else 1
        try:
            questions, system_prompt = parse_questions(
                texts, self.fields, entry.modality, num_files, location
            )
        except QuestionError as error:
            raise ShardError(str(error)) from error
        found = (chosen.modality(self.fields), len(questions))
        if found != (entry.modality, entry.num_questions):
            raise ShardError(
                f"{location} has (modality, questions) {found}, which does not match its index."
                " Run lit-hour index again."
            )
        stored = StoredSample(
            location=location,
            key=entry.key,
            modality=entry.modality,
            files=tuple(f"{entry.key}.{suffix}" for suffix in files),
            duration_seconds=entry.duration_seconds,
            timestamps_seconds=(),
            questions=questions,
            system_prompt=system_prompt,
        )
        if chosen.videos:
            content = contents[chosen.videos[0]]
            return replace(stored, video=EncodedVideo(f"{path}: {stored.files[0]}", content))
        images = [(f"{entry.key}.{suffix}", contents[suffix]) for suffix in chosen.images]
        if entry.modality != "video":
            return replace(stored, images=tuple(images))
        try:
            times = frame_times(texts, self.fields, len(images))
        except QuestionError as error:
            raise ShardError(f"{location}: {error}") from error
        return _sample_frames(stored, images, times, self.video)


def names_tars(location: str) -> bool:
    """Return whether the text of a source names tars, not a folder of packed shards."""
    return location.partition("?")[0].endswith(TAR_SUFFIXES)


def open_webdataset(source: SourceConfig, config: Config) -> WebDatasetShards:
    """Open the tars of a source, and make the indexes that are missing.

    Raises:
        ShardError: a tar is missing or corrupt; see `find_or_make_indexes`.
        ConfigError: the mapping cannot be used.
    """
    fields = load_field_mapping(source.mapping)
    tars = expand_tars(source.shards)
    spare_folder = index_folder_of(source, config)
    made = find_or_make_indexes(tars, fields, source.index_folder, spare_folder, config.pack)
    names = _relative_names(tars)
    indexes = tuple(
        _for_run(index, name, config.video) for index, name in zip(made, names, strict=True)
    )
    paths = TarFiles(dict(zip(names, tars, strict=True)))
    return WebDatasetShards(_common_folder(tars), paths, indexes, fields, config.video)


def expand_tars(pattern: str) -> list[Path]:
    """Return the tars that braces, globs and `::` between several stand for, in order.

    Raises:
        ShardError: there is none.
    """
    tars: list[Path] = []
    for name in expand_urls(pattern):
        found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        tars += [Path(one) for one in found if Path(one) not in tars]
    missing = [str(tar) for tar in tars if not tar.is_file()]
    if missing or not tars:
        raise ShardError(
            f"{pattern} names {len(tars)} tars, and {len(missing)} of them do not exist"
            f"{': ' + missing[0] if missing else ''}. Give their paths, such as"
            " data/{00000..00099}.tar."
        )
    return tars


def _common_folder(tars: list[Path]) -> str:
    return os.path.commonpath([tar.parent.absolute() for tar in tars])


def _relative_names(tars: list[Path]) -> list[str]:
    """Return a name for each tar that stays the same when all of them are moved."""
    folder = _common_folder(tars)
    return [tar.absolute().relative_to(folder).as_posix() for tar in tars]


def _for_run(index: ShardIndex, name: str, video: VideoConfig) -> ShardIndex:
    """Return an index with the frames that a run samples, and a hash of all that order needs."""
    entries = tuple(replace(sampled_entry(entry, video), shard=name) for entry in index.entries)
    identity = [
        [entry.key, entry.num_frames, entry.num_questions, entry.size_pixels, entry.text_bytes]
        for entry in entries
    ]
    parts = json.dumps([index.sha256, index.fingerprint, identity])
    digest = hashlib.sha256(parts.encode()).hexdigest()
    return replace(
        index,
        shard=name,
        entries=entries,
        config=sampling_config(video),
        sha256=digest,
        fingerprint=digest,
    )


def _sample_frames(
    stored: StoredSample,
    images: list[tuple[str, bytes]],
    times: list[float],
    video: VideoConfig,
) -> StoredSample:
    """Return a sample with the images of a sequence that are on screen at the sampled times."""
    timestamps = sample_timestamps(
        stored.duration_seconds, video.fps, video.min_frames, video.max_frames
    )
    shown = [
        images[bisect_right(times, seconds + TIME_TOLERANCE_SECONDS) - 1] for seconds in timestamps
    ]
    return replace(stored, images=tuple(shown), timestamps_seconds=tuple(timestamps))
