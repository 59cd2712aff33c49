"""Indexes of tars that others wrote: made once, without copying, and found again.

`find_or_make_indexes` is the entry point. The index of DATA/00000.tar is a file beside it, or in a
folder of its own, whose name contains a hash of the mapping:

    DATA/00000.tar.5f1c09ab.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.field_mapping import FieldMapping
from lit_hour.config.schema import PackConfig
from lit_hour.data.external.entries import INDEX_VERSION, check_skipped, probe_video
from lit_hour.data.external.sample_members import (
    SampleMembers,
    decode_texts,
    group_members,
    has_safe_name,
    is_sample_member,
)
from lit_hour.data.external.sample_questions import frame_times, parse_questions
from lit_hour.data.external.tar_files import TarFile
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.shard_index import (
    FileStamp,
    IndexEntry,
    ShardIndex,
    SkippedSample,
    parse_index,
    write_index,
)
from lit_hour.errors import ImageError, QuestionError, ShardError, VideoError
from lit_hour.io.file_kinds import HEAD_BYTES, describe_wrong_kind
from lit_hour.io.file_lock import dir_lock
from lit_hour.io.hashing import hash_path
from lit_hour.io.urls import redact
from lit_hour.media.image_reader import read_image
from lit_hour.text.chat_template import count_text_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarMember:
    """A member of a tar, by its bytes in the file: header and content, and content alone."""

    start: int
    content_start: int
    num_bytes: int

    @property
    def end(self) -> int:
        """End of the content with its padding."""
        return self.content_start + -(-self.num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def read(self, tar: BinaryIO) -> bytes:
        """Return the content."""
        tar.seek(self.content_start)
        return tar.read(self.num_bytes)


def mapping_fingerprint(fields: FieldMapping) -> str:
    """Return a hash of the mapping, and of the rules by which indexes are made."""
    parts = [INDEX_VERSION, dataclasses.asdict(fields)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_or_make_indexes(
    tars: Sequence[TarFile],
    fields: FieldMapping,
    folder: str,
    spare_folder: Path,
    config: PackConfig,
) -> tuple[ShardIndex, ...]:
    """Return the index of each tar; those that are missing or out of date are made.

    Args:
        tars: in the order of the source.
        fields: where questions and frames are.
        folder: of the indexes; empty for the folder of each tar.
        spare_folder: of the indexes whose tars lie in a folder that cannot be written.
        config: `num_workers` and `max_bad_samples`.

    Raises:
        ShardError: a tar is missing or corrupt, an index cannot be written, or more samples cannot
            be used than `pack.max_bad_samples`.
    """
    fingerprint = mapping_fingerprint(fields)
    paths = [_index_path(tar, folder, spare_folder, fingerprint) for tar in tars]
    indexes = [_find(tar, path, fingerprint) for tar, path in zip(tars, paths, strict=True)]
    missing = [number for number, index in enumerate(indexes) if index is None]
    if missing:
        jobs = [(tars[number], paths[number], fields, fingerprint) for number in missing]
        made = _make_all(jobs, resolve_num_workers(config.num_workers))
        for number, index in zip(missing, made, strict=True):
            indexes[number] = index
    complete = tuple(index for index in indexes if index is not None)
    check_skipped(complete, config.max_bad_samples)
    return complete


def _index_path(tar: TarFile, folder: str, spare_folder: Path, fingerprint: str) -> Path:
    """Return where the index of a tar is, or will be."""
    name = f"{tar.name}.{fingerprint[:8]}.json"
    parent = Path(tar.location).parent
    if not folder and not tar.is_remote and os.access(parent, os.W_OK):
        return parent / name
    # Tars of different folders may have the same name.
    location = redact(tar.location) if tar.is_remote else str(parent.absolute())
    digest = hashlib.sha256(location.encode()).hexdigest()[:8]
    return (Path(folder) if folder else spare_folder) / f"{digest}-{name}"


def _find(tar: TarFile, path: Path, fingerprint: str) -> ShardIndex | None:
    """Return an index that exists, unless its tar has changed since.

    A file with another time counts as unchanged if it has the same content. Behind a URL the size
    is compared; the content is when the tar is downloaded.
    """
    num_bytes, mtime_ns = tar.stamp()
    try:
        index = parse_index(path.read_bytes(), str(path), tar.name)
    except (OSError, ShardError):  # missing, or made by an older version
        return None
    stamp = index.files.get(tar.name)
    if stamp is None or index.fingerprint != fingerprint or num_bytes != stamp.num_bytes:
        return None
    if mtime_ns not in (stamp.mtime_ns, stamp.checked_mtime_ns):
        if hash_path(Path(tar.location)) != stamp.sha256:
            return None
        index = replace(index, files={tar.name: replace(stamp, checked_mtime_ns=mtime_ns)})
        with suppress(OSError):  # a read-only folder keeps the old time
            write_index(path, index)
    return index


def _make_all(
    jobs: Sequence[tuple[TarFile, Path, FieldMapping, str]], num_workers: int
) -> list[ShardIndex]:
    """Make indexes in several threads, except those that another process has made meanwhile."""
    try:
        with ExitStack() as locks, ThreadPoolExecutor(num_workers) as executor:
            for folder in sorted({path.parent for _, path, _, _ in jobs}):
                locks.enter_context(dir_lock(folder))
            return list(tqdm(executor.map(lambda job: _make(*job), jobs), "indexing", len(jobs)))
    except OSError as error:
        raise ShardError(
            f"Cannot index {redact(jobs[0][0].location)}: {error}. Set index_folder of the source"
            " to a folder that can be written."
        ) from error


def _make(tar: TarFile, path: Path, fields: FieldMapping, fingerprint: str) -> ShardIndex:
    """Make and write the index of a tar."""
    if index := _find(tar, path, fingerprint):
        return index
    index = index_tar(tar, fields, fingerprint)
    write_index(path, index)
    return index


def index_tar(tar: TarFile, fields: FieldMapping, fingerprint: str) -> ShardIndex:
    """Return the index of a tar: where its samples are, and what their order depends on.

    Raises:
        ShardError: the file is not a tar, is cut short, or has two members of the same name; or it
            cannot be downloaded.
        OSError: it cannot be read.
    """
    (num_bytes, mtime_ns), entries, skipped = tar.stamp(), [], []
    ignored: Counter[str] = Counter()
    path, name = tar.fetch(), redact(tar.location)
    with path.open("rb") as stream:
        for key, members in group_members(_list_members(path, name), name):
            try:
                chosen = SampleMembers.choose(list(members), fields)
                ignored.update(chosen.ignored)
                entries.append(_index_sample(tar.name, key, members, chosen, stream, fields))
            except (ShardError, QuestionError, VideoError, ImageError) as error:
                skipped.append(SkippedSample(key, str(error)))
    if ignored:
        counts = ", ".join(f"{number} .{suffix}" for suffix, number in ignored.most_common())
        log.warning("%s: members that are not used: %s", name, counts)
    digest = hash_path(path)
    file_digest = digest if tar.is_remote or not tar.is_cached else hash_path(Path(tar.location))
    return ShardIndex(
        shard=tar.name,
        num_bytes=path.stat().st_size,
        sha256=digest,
        config={"mapping": dataclasses.asdict(fields)},
        fingerprint=fingerprint,
        entries=tuple(entries),
        skipped=tuple(skipped),
        files={tar.name: FileStamp(num_bytes, mtime_ns, file_digest, mtime_ns)},
    )


def _list_members(tar: Path, location: str) -> Iterator[tuple[str, TarMember]]:
    """Yield the members of a tar that belong to samples; their content is not read."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                if is_sample_member(info):
                    yield info.name, TarMember(info.offset, info.offset_data, info.size)
                archive.members = []  # type: ignore[attr-defined]  # else memory grows with the tar
    except tarfile.TarError as error:
        with tar.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        kind = "" if b"ustar" in head else describe_wrong_kind(head)
        reason = kind or f"is not a tar, or is cut short: {error}. Download it again."
        raise ShardError(f"{location} {reason}") from error


def _index_sample(
    shard: str,
    key: str,
    members: dict[str, TarMember],
    chosen: SampleMembers,
    stream: BinaryIO,
    fields: FieldMapping,
) -> IndexEntry:
    """Return the entry of a sample, after opening its video or images and its questions.

    Raises:
        ShardError, QuestionError, VideoError, ImageError: it cannot be used.
    """
    if not has_safe_name(key):
        raise ShardError(f"{key!r} leads out of its folder.")
    modality = chosen.modality(fields)
    texts = decode_texts({name: members[name].read(stream) for name in chosen.texts}, key)
    num_files = max(len(chosen.images) * (modality == "images"), 1)
    questions, system_prompt = parse_questions(texts, fields, modality, num_files, key)
    start = min(member.start for member in members.values())
    entry = IndexEntry(
        shard=shard,
        key=key,
        modality=modality,
        offset=start,
        num_bytes=max(member.end for member in members.values()) - start,
        duration_seconds=0.0,
        num_frames=len(chosen.images),
        num_questions=len(questions),
        text_bytes=tuple(count_text_bytes(question, system_prompt) for question in questions),
    )
    if chosen.videos:
        (suffix,) = chosen.videos
        content = members[suffix].read(stream)
        with EncodedVideo(f"{key}.{suffix}", content).open() as path:
            return probe_video(path, len(content)).fill(entry)
    for suffix in chosen.images:
        image = read_image(members[suffix].read(stream), f"{key}.{suffix}")
        if modality == "image":
            entry = replace(entry, size_pixels=(image.height, image.width))
    if modality == "video":
        duration_seconds = sequence_seconds(frame_times(texts, fields, len(chosen.images)), fields)
        frame_rate = len(chosen.images) / duration_seconds
        return replace(entry, duration_seconds=duration_seconds, frame_rate=frame_rate)
    return entry


def sequence_seconds(times: Sequence[float], fields: FieldMapping) -> float:
    """Return the duration of an image sequence: its last frame is shown as long as the one before.

    A single frame is shown for the time between two frames of the mapping.
    """
    interval = times[-1] - times[-2] if len(times) > 1 else 1 / fields.frames_per_second
    return times[-1] + interval
