"""A folder of packed shards in, what single subjects show and ask out. Damage is named, never passed over."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from lit_hour.config.schema import DataConfig, ImageConfig, VideoConfig
from lit_hour.data.balance import SampleCost
from lit_hour.data.cache import ShardCache
from lit_hour.data.folder import LocalFolder, RemoteFolder, ShardFolder
from lit_hour.data.index import VERSION, ShardIndex, SubjectRecord
from lit_hour.data.questions import parse_question
from lit_hour.data.subject import SHARED_KINDS, Kind
from lit_hour.data.tar import split_tar
from lit_hour.data.web import is_url
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.image.read import SUFFIXES
from lit_hour.image.squares import load_image_set
from lit_hour.image.tiling import load_tiled_image
from lit_hour.types import Frames, Question, Visual
from lit_hour.video.transform import decode_jpeg


@dataclass(frozen=True)
class StoredSubject:
    """One subject as its shard holds it.

    Attributes:
        place: the shard's path and the key, for errors.
        files: names of the files that it was made from.
        duration_seconds: of a video; otherwise 0.
        timestamps_seconds: of each frame of a video.
        pictures: member name and bytes of each frame or picture.
    """

    place: str
    key: str
    kind: Kind
    files: tuple[str, ...]
    duration_seconds: float
    timestamps_seconds: tuple[float, ...]
    questions: tuple[Question, ...]
    pictures: tuple[tuple[str, bytes], ...]

    @property
    def source(self) -> str:
        """The files that it was made from, in one line."""
        return ", ".join(self.files)


@dataclass(frozen=True)
class Shards:
    """The indexes of a folder of shards. It holds no open file, so that it can be sent to other processes."""

    folder: ShardFolder
    indexes: tuple[ShardIndex, ...]

    @property
    def subjects(self) -> tuple[SubjectRecord, ...]:
        """Every subject, shard by shard."""
        return tuple(subject for index in self.indexes for subject in index.subjects)

    @cached_property
    def _index_of(self) -> dict[str, ShardIndex]:
        return {index.shard: index for index in self.indexes}

    def costs_per_shard(self, questions_per_sample: int, cost: SampleCost) -> tuple[NDArray[np.int64], ...]:
        """The cost of each sample of each shard, in the order of `locate`: `(samples,)` for each shard."""
        return tuple(
            np.array(
                [cost.of(each, num) for each in index.subjects for num in _nums_asked(each, questions_per_sample)], np.int64
            )
            for index in self.indexes
        )

    def samples_per_shard(self, questions_per_sample: int) -> tuple[int, ...]:
        """How many samples each shard has when a sample asks up to so many consecutive questions.

        Texts and sets of pictures are one sample each: their questions are one conversation, which is not cut.
        """
        return tuple(sum(_num_samples(each, questions_per_sample) for each in index.subjects) for index in self.indexes)

    def locate(self, shard: int, sample: int, questions_per_sample: int) -> tuple[SubjectRecord, slice]:
        """The subject of a sample of a shard, and which of the subject's questions the sample asks.

        Raises:
            IndexError: the shard has fewer samples.
        """
        for record in self.indexes[shard].subjects:
            num_samples = _num_samples(record, questions_per_sample)
            if sample < num_samples:
                num_asked = _num_asked(record, questions_per_sample)
                return record, slice(sample * num_asked, (sample + 1) * num_asked)
            sample -= num_samples
        raise IndexError(f"shard {shard} of {self.folder} has {sample} samples too few")

    def place_of(self, record: SubjectRecord) -> str:
        """The shard and the key of a subject, as messages name them."""
        return f"{self.folder}/{record.shard}: {record.kind} {record.key!r}"

    def read_subject(self, record: SubjectRecord) -> StoredSubject:
        """Read one subject's part of its tar, in one go; its pictures stay undecoded.

        Raises:
            ShardError: the tar is shorter than its index says, a member is missing or damaged, or `KEY.json` does not fit.
        """
        place = self.place_of(record)
        with self.folder.open(self._index_of[record.shard]) as tar:
            members = _members(_read_range(tar, f"{self.folder}/{record.shard}", record), place)
        suffixes = ("jpg",) if record.kind == "video" else SUFFIXES
        pictures = tuple(
            _take(members, [f"{record.key}.{number:06d}.{suffix}" for suffix in suffixes], place)
            for number in range(record.num_frames)
        )
        name, metadata = _take(members, [f"{record.key}.json"], place)
        for found, _ in members:
            raise ShardError(f"{place}: the member {found} is not in the index")
        return _stored_subject(metadata, record, pictures, place, name)


def open_shards(place: Path | str, cache: ShardCache | None = None) -> Shards:
    """Read the indexes of a folder that `python -m lit_hour pack` has filled.

    Args:
        place: the path of the folder, or as text its http://, https:// or s3:// URL.
        cache: where shards from a URL are kept; without one, by the defaults of the settings.

    Raises:
        ShardError: the folder holds no shards, packing has not finished, a tar is missing or has another size, or the server
            does not answer.
    """
    folder: ShardFolder
    if isinstance(place, str) and is_url(place):
        folder = RemoteFolder(place, cache or ShardCache.by(DataConfig()))
    else:
        folder = LocalFolder(Path(place))
    return Shards(folder, folder.indexes())


def load_visual(stored: StoredSubject, video: VideoConfig, image: ImageConfig) -> Visual | None:
    """Decode what a stored subject shows, by the settings of a run; None for a text.

    Raises:
        ShardError: a frame or a picture does not decode.
    """
    try:
        match stored.kind:
            case "video":
                return load_frames(stored, video.size_pixels, video.max_frames)
            case "image":
                ((name, data),) = stored.pictures
                return load_tiled_image(data, name, video.size_pixels, image)
            case "images":
                return load_image_set(stored.pictures, video.size_pixels)
            case "text":
                return None
    except ImageError as error:
        raise ShardError(f"{stored.place}: member {error}") from error


def load_frames(stored: StoredSubject, size_pixels: int, max_frames: int) -> Frames:
    """Decode a stored video's frames; of more than `max_frames`, that many that are spread evenly.

    Returns:
        `images` `(frames, 3, size_pixels, size_pixels)` uint8, `timestamps` `(frames,)` in seconds.

    Raises:
        ShardError: a JPEG does not decode or has another size.
    """
    num_frames = len(stored.pictures)
    num_chosen = min(num_frames, max_frames)
    chosen = [row * (num_frames - 1) // max(num_chosen - 1, 1) for row in range(num_chosen)]
    images = torch.empty(len(chosen), 3, size_pixels, size_pixels, dtype=torch.uint8)  # (frames, 3, size, size)
    for row, frame in enumerate(chosen):
        name, jpeg = stored.pictures[frame]
        try:
            images[row] = decode_jpeg(jpeg, size_pixels, name)
        except VideoError as error:
            raise ShardError(f"{stored.place}: member {name} does not decode: {error}") from error
    timestamps = torch.tensor([stored.timestamps_seconds[frame] for frame in chosen])  # (frames,)
    return Frames(images, timestamps)


def _num_asked(record: SubjectRecord, questions_per_sample: int) -> int:
    """Questions that one sample asks about this subject, at most."""
    return questions_per_sample if record.kind in SHARED_KINDS else max(record.num_questions, 1)


def _num_samples(record: SubjectRecord, questions_per_sample: int) -> int:
    return -(-record.num_questions // _num_asked(record, questions_per_sample))


def _nums_asked(record: SubjectRecord, questions_per_sample: int) -> Iterator[int]:
    """Questions of each sample about this subject: the last one may have fewer."""
    num_asked = _num_asked(record, questions_per_sample)
    return (min(num_asked, record.num_questions - first) for first in range(0, record.num_questions, num_asked))


class ReadMemory(threading.local):
    """Memory of each thread that reading uses again and again: to get new pages from the system takes longer than to read."""

    _content = bytearray()

    def of(self, num_bytes: int) -> memoryview:
        """So many bytes, until the next call."""
        if len(self._content) < num_bytes:
            self._content = bytearray(num_bytes)
        return memoryview(self._content)[:num_bytes]


_read_memory = ReadMemory()


def _read_range(tar: BinaryIO, path: str, record: SubjectRecord) -> memoryview:
    """The bytes of a subject; they stay until the next one is read."""
    content = _read_memory.of(record.size)
    try:
        tar.seek(record.offset)
        num_bytes = tar.readinto(content)  # type: ignore[attr-defined]
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    if num_bytes < record.size:
        raise ShardError(f"{path} ends inside the {record.kind} {record.key!r}: the tar is truncated, pack it again")
    return content


def _take(members: Iterator[tuple[str, bytes]], names: Sequence[str], place: str) -> tuple[str, bytes]:
    """The next member, which has to have one of the names."""
    found, content = next(members, ("nothing readable", b""))
    if found not in names:
        raise ShardError(f"{place}: the member {' or '.join(names)} is missing or its header is damaged; found {found}")
    return found, content


def _members(content: memoryview, place: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member; at a damaged header it ends, which the caller sees as a missing member."""
    for name, data, is_file in split_tar(content):
        if not is_file:
            raise ShardError(f"{place}: the member {name} is no file")
        yield name, data


def _stored_subject(
    metadata: bytes, expected: SubjectRecord, pictures: tuple[tuple[str, bytes], ...], place: str, name: str
) -> StoredSubject:
    """Check `KEY.json` against the index, and put the parts together."""
    member = f"{place}: member {name}"
    try:
        record: dict[str, Any] = json.loads(metadata)
        version, questions = record["version"], record["questions"]
        stored = StoredSubject(
            place=place,
            key=record["key"],
            kind=record["kind"],
            files=tuple(str(file) for file in record["files"]),
            duration_seconds=float(record["duration_seconds"]),
            timestamps_seconds=tuple(float(moment) for moment in record["timestamps_seconds"]),
            questions=tuple(parse_question(question, member) for question in questions),
            pictures=pictures,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{member} is damaged: {error!r}") from error
    if version != VERSION:
        raise ShardError(f"{member} has version {version!r}, this program reads version {VERSION}: pack again")
    num_frames = len(stored.timestamps_seconds if stored.kind == "video" else stored.files)
    counts = (stored.key, stored.kind, num_frames, len(stored.questions))
    if counts != (expected.key, expected.kind, expected.num_frames, expected.num_questions):
        raise ShardError(f"{member} has (key, kind, frames, questions) {counts}, which does not fit the index")
    return stored
