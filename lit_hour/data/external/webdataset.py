"""Open tars that others wrote as a source of training: `open_webdataset`."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, replace

from lit_hour.config.data import SourceConfig
from lit_hour.config.field_mapping import FieldMapping, load_field_mapping
from lit_hour.config.schema import Config, VideoConfig
from lit_hour.data.external.entries import index_folder_of, sampled_entry, sampling_config
from lit_hour.data.external.sample_members import decode_texts, read_members
from lit_hour.data.external.sample_questions import frame_times, parse_questions
from lit_hour.data.external.tar_files import TarFiles, expand_tars, relative_names
from lit_hour.data.external.tar_index import find_or_make_indexes
from lit_hour.data.shards.cache import ShardCache
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.reader import Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex
from lit_hour.errors import QuestionError, ShardError
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.published_sampling import published_frame_indices
from lit_hour.media.sample_times import sample_timestamps


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
        tar, found = self.folder.open_entry(self.index_of[entry.shard], entry)
        with tar:
            chosen, contents = read_members(tar, path, found, self.fields)
        texts = decode_texts({name: contents[name] for name in chosen.texts}, location)
        files = chosen.videos or chosen.images
        num_files = len(files) if entry.modality == "images" else 1
        try:
            questions, system_prompt = parse_questions(
                texts, self.fields, entry.modality, num_files, location
            )
        except QuestionError as error:
            raise ShardError(str(error)) from error
        read = (chosen.modality(self.fields), len(questions))
        if read != (entry.modality, entry.num_questions):
            raise ShardError(
                f"{location} has (modality, questions) {read}, which does not match its index."
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
        return _sample_frames(stored, images, times, entry.frame_rate, self.video)


def open_webdataset(source: SourceConfig, config: Config) -> WebDatasetShards:
    """Open the tars of a source, and make the indexes that are missing.

    Raises:
        ShardError: a tar is missing or corrupt; see `find_or_make_indexes`.
        ConfigError: the mapping or a URL cannot be used.
    """
    fields = load_field_mapping(source.mapping)
    tars = expand_tars(source.shards, ShardCache.from_config(config.data))
    spare_folder = index_folder_of(source, config)
    made = find_or_make_indexes(tars, fields, source.index_folder, spare_folder, config.pack)
    folder, names = relative_names(tars)
    indexes = tuple(
        _for_run(index, name, config.video) for index, name in zip(made, names, strict=True)
    )
    files = TarFiles(dict(zip(names, zip(tars, made, strict=True), strict=True)))
    return WebDatasetShards(folder, files, indexes, fields, config.video)


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
    frame_rate: float,
    video: VideoConfig,
) -> StoredSample:
    """Return a sample with the images of a sequence that a run samples, and their times."""
    if video.sampling == "published":
        indices = published_frame_indices(len(images), frame_rate, video)
        timestamps = [times[index] for index in indices]
    else:
        timestamps = sample_timestamps(
            stored.duration_seconds, video.fps, video.min_frames, video.max_frames
        )
        indices = [
            bisect_right(times, seconds + TIME_TOLERANCE_SECONDS) - 1 for seconds in timestamps
        ]
    shown = tuple(images[index] for index in indices)
    return replace(stored, images=shown, timestamps_seconds=tuple(timestamps))
