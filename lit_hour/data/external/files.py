"""Train on a folder of videos and images with a question file, without packing: `open_files`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from lit_hour.config.data import SourceConfig, resolve_num_workers
from lit_hour.config.schema import Config
from lit_hour.data.external.entries import (
    INDEX_VERSION,
    MediaFacts,
    check_skipped,
    index_folder_of,
    part_of,
    probe_video,
    sampled_entry,
    sampling_config,
)
from lit_hour.data.packing.shard_plan import check_files_exist, group_samples
from lit_hour.data.questions.record import SampleSpec, format_clip, question_record
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.reader import LocalFolder, Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex, SkippedSample
from lit_hour.errors import ConfigError, ImageError, ShardError, VideoError
from lit_hour.io.atomic import atomic_write_text
from lit_hour.io.file_lock import dir_lock
from lit_hour.media.image_reader import read_image
from lit_hour.text.chat_template import count_text_bytes

FACTS_SUFFIX = ".files.json"


class Media(NamedTuple):
    """A file of the folder, as a record names it: one file may be named as a video and an image."""

    is_video: bool
    file: str

    @property
    def record_key(self) -> str:
        """Return the key of its facts in the record of headers."""
        return f"{'video' if self.is_video else 'image'}:{self.file}"


Facts = Mapping[Media, MediaFacts | SkippedSample]


@dataclass(frozen=True)
class FileShards(Shards):
    """Files with questions, in the shards that packing would make.

    Attributes:
        samples: by their keys.
    """

    samples: Mapping[str, SampleSpec]

    def read(self, entry: IndexEntry) -> StoredSample:
        """Read one sample; its video or images stay encoded.

        Raises:
            ShardError: an image cannot be read.
        """
        sample, location = self.samples[entry.key], self.describe_location(entry)
        paths = [Path(self.name) / file for file in sample.files]
        stored = StoredSample(
            location=location,
            key=entry.key,
            modality=sample.modality,
            files=sample.files,
            duration_seconds=entry.duration_seconds,
            timestamps_seconds=(),
            questions=sample.questions,
            clip_seconds=sample.clip_seconds,
            system_prompt=sample.system_prompt,
        )
        if sample.modality == "video":
            return replace(stored, video=EncodedVideo(str(paths[0])))
        try:
            return replace(stored, images=tuple((str(path), path.read_bytes()) for path in paths))
        except OSError as error:
            raise ShardError(f"{location}: cannot read a file: {error}.") from error

    def describe_location(self, entry: IndexEntry) -> str:
        """Return the files of an entry, for messages."""
        sample = self.samples[entry.key]
        name = ", ".join(sample.files) + format_clip(sample.clip_seconds)
        return f"{self.name}: {entry.modality} {name or entry.key}"


def open_files(source: SourceConfig, config: Config) -> FileShards:
    """Open a folder of files with its question file; their headers are read once, and recorded.

    Raises:
        QuestionError: the question file is invalid, or names files that are not in the folder.
        ShardError: more files cannot be read than `pack.max_bad_samples`, or no sample is left.
        ConfigError: the source has no question file.
    """
    if not source.questions:
        raise ConfigError(
            f"The folder of files {source.shards} needs a question file. Set"
            " data.sources.NAME.questions=FILE.json."
        )
    folder, questions = Path(source.shards), Path(source.questions)
    groups, invalid = group_samples(questions, config.pack)
    check_files_exist(folder, questions, groups)
    samples = [sample for group in groups for sample in group]
    facts = _find_facts(folder, samples, source, config)
    indexes = [_index_group(number, group, facts, config) for number, group in enumerate(groups)]
    indexes[0] = replace(indexes[0], skipped=(*invalid, *indexes[0].skipped))
    check_skipped(indexes, config.pack.max_bad_samples, str(folder))
    by_key = {sample.key: sample for sample in samples}
    return FileShards(str(folder), LocalFolder(folder), tuple(indexes), by_key)


def _index_group(
    number: int,
    samples: Sequence[SampleSpec],
    facts: Facts,
    config: Config,
) -> ShardIndex:
    """Return the index of the shard that packing would make of a group of samples."""
    shard, entries, skipped = f"{number:06d}.tar", [], []
    identity: list[Any] = []
    for sample in samples:
        found = [facts[media] for media in _media_of(sample)]
        failed = [one for one in found if isinstance(one, SkippedSample)]
        if failed:
            skipped.append(replace(failed[0], name=sample.name))
            continue
        entry = IndexEntry(
            shard=shard,
            key=sample.key,
            modality=sample.modality,
            offset=0,
            num_bytes=sum(one.num_bytes for one in found if isinstance(one, MediaFacts)),
            duration_seconds=0.0,
            num_frames=len(sample.files),
            num_questions=len(sample.questions),
            text_bytes=tuple(
                count_text_bytes(question, sample.system_prompt) for question in sample.questions
            ),
        )
        entry = _with_facts(entry, found)
        if sample.clip_seconds is not None:
            start, end = sample.clip_seconds
            if start >= entry.duration_seconds:
                reason = f"it begins after the {entry.duration_seconds:g} s of the video"
                skipped.append(SkippedSample(sample.name, reason))
                continue
            entry = part_of(entry, start, min(end, entry.duration_seconds))
        entry = sampled_entry(entry, config.video)
        entries.append(entry)
        questions = list(map(question_record, sample.questions))
        prompt = sample.system_prompt
        identity.append([dataclasses.astuple(entry), questions, sample.files, prompt])
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return ShardIndex(
        shard=shard,
        num_bytes=sum(entry.num_bytes for entry in entries),
        sha256=digest,
        config=sampling_config(config.video),
        fingerprint=digest,
        entries=tuple(entries),
        skipped=tuple(skipped),
    )


def _with_facts(entry: IndexEntry, found: Sequence[MediaFacts | SkippedSample]) -> IndexEntry:
    if entry.modality not in ("video", "image"):
        return entry
    (facts,) = found
    assert isinstance(facts, MediaFacts)
    return facts.fill(entry)


def _find_facts(
    folder: Path, samples: Sequence[SampleSpec], source: SourceConfig, config: Config
) -> Facts:
    """Return the facts of all files; read headers are recorded for the next start."""
    store = index_folder_of(source, config)
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    path = store / f"{digest}{FACTS_SUFFIX}"
    wanted = {media for sample in samples for media in _media_of(sample)}
    try:
        stamps = {media: _stamp(folder / media.file) for media in sorted(wanted)}
        known = _unchanged(_read_record(path), stamps)
        if wanted == known.keys():
            return known
        with dir_lock(store):
            record = _read_record(path)
            known = _unchanged(record, stamps)  # another rank may have read them meanwhile
            missing = sorted(wanted - known.keys())
            found = _read_headers(folder, missing, config)
            readable = {**known, **found}
            kept = {
                media.record_key: [*stamps[media], dataclasses.asdict(facts)]
                for media, facts in readable.items()
                if isinstance(facts, MediaFacts)
            }
            # Another source may have other questions about the same folder.
            files = {**record, **kept}
            atomic_write_text(path, json.dumps({"version": INDEX_VERSION, "files": files}))
    except OSError as error:
        raise ShardError(
            f"Cannot index {folder}: {error}. Set index_folder of the source to a folder that can"
            " be written."
        ) from error
    return readable


def _media_of(sample: SampleSpec) -> list[Media]:
    return [Media(sample.modality == "video", file) for file in sample.files]


def _stamp(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _read_record(path: Path) -> dict[str, Any]:
    """Return size, modification time and facts of each file that was read before."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet
        return {}
    if record.get("version") != INDEX_VERSION:
        return {}
    files: dict[str, Any] = record["files"]
    return files


def _unchanged(
    record: Mapping[str, Any], stamps: Mapping[Media, list[int]]
) -> dict[Media, MediaFacts | SkippedSample]:
    """Return recorded facts of files that have not changed since."""
    found = {media: record.get(media.record_key) for media in stamps}
    return {
        media: MediaFacts.from_record(one[2])
        for media, one in found.items()
        if one is not None and one[:2] == stamps[media]
    }


def _read_headers(folder: Path, media: Sequence[Media], config: Config) -> Facts:
    def read(one: Media) -> MediaFacts | SkippedSample:
        path = folder / one.file
        try:
            if one.is_video:
                return probe_video(path, path.stat().st_size)
            content = path.read_bytes()
            image = read_image(content, str(path))
            return MediaFacts(len(content), size_pixels=(image.height, image.width))
        except (VideoError, ImageError, OSError) as error:
            return SkippedSample(one.file, str(error))

    with ThreadPoolExecutor(resolve_num_workers(config.pack.num_workers)) as executor:
        found = tqdm(executor.map(read, media), "indexing", len(media), unit="file")
        return dict(zip(media, found, strict=True))
