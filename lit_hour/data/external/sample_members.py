"""The members of one sample of a tar, grouped and decoded by webdataset's own functions.

Only text and JSON are decoded, and nothing is unpickled. Names of members are labels: no file is
written under one.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

from webdataset.autodecode import Decoder
from webdataset.tariterators import group_by_keys, tar_file_expander

from lit_hour.config.field_mapping import FieldMapping
from lit_hour.data.questions.record import Modality
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.data.shards.tar import read_raw
from lit_hour.errors import ShardError
from lit_hour.media.image_reader import IMAGE_SUFFIXES
from lit_hour.media.video_probe import VIDEO_SUFFIXES

JSON_SUFFIXES, TEXT_SUFFIXES = ("json", "jsn"), ("txt", "text")
GZIP_SUFFIX = ".gz"  # of a compressed text or JSON member
MAX_TEXT_BYTES = 64 * 1024**2  # of a text or JSON member; a few kB of gzip may hold gigabytes
DIGITS = re.compile(r"(\d+)")

Member = TypeVar("Member")


@dataclass(frozen=True)
class SampleMembers:
    """Suffixes of the members of a sample that are used, in lower case.

    Attributes:
        videos: the video; none if there is none.
        images: in the order of their numbers; none beside a video.
        texts: JSON and text.
        ignored: everything else; never read.
    """

    videos: tuple[str, ...]
    images: tuple[str, ...]
    texts: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def choose(cls, suffixes: list[str], fields: FieldMapping) -> SampleMembers:
        """Choose the members of a sample by their suffixes.

        Raises:
            ShardError: the sample has several videos, and the mapping names none of them.
        """
        kinds = {suffix: _kind(suffix) for suffix in suffixes}
        videos = [suffix for suffix in suffixes if kinds[suffix] == "video"]
        if len(videos) > 1:
            named = fields.video.lower().lstrip(".")
            if named not in videos:
                raise ShardError(
                    f"has {len(videos)} videos, {', '.join(videos)}. Name one in the mapping:"
                    f" video: {videos[0]}."
                )
            videos = [named]
        images = [] if videos else [one for one in suffixes if kinds[one] == "image"]
        used = {*videos, *images, *(one for one in suffixes if kinds[one] == "text")}
        return cls(
            videos=tuple(videos),
            images=tuple(sorted(images, key=_natural_order)),
            texts=tuple(one for one in suffixes if kinds[one] == "text"),
            ignored=tuple(one for one in suffixes if one not in used),
        )

    def modality(self, fields: FieldMapping) -> Modality:
        """Return what the sample is about."""
        if self.videos or (len(self.images) > 1 and fields.images == "frames"):
            return "video"
        return ("text", "image", "images")[min(len(self.images), 2)]


def group_members(
    members: Iterator[tuple[str, Member]], location: str
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield key, and member by suffix in lower case, of each sample; by webdataset's rule.

    Args:
        members: names, and whatever belongs to them.
        location: of the tar, for errors.

    Raises:
        ShardError: two members of a sample have the same name.
    """
    files = ({"fname": name, "data": member, "__url__": location} for name, member in members)
    try:
        for sample in group_by_keys(files):
            yield sample["__key__"], _without_metadata(sample)
    except ShardError:  # a ValueError of `members`, which has its own message
        raise
    except ValueError as error:
        raise ShardError(
            f"{location} has two members of the same name: {error.args[0]}."
        ) from error


def is_sample_member(info: tarfile.TarInfo) -> bool:
    """Return whether a member belongs to a sample, by webdataset's rule.

    Folders, links and devices do not, nor metadata such as `__index__.json`.
    """
    return info.isreg() and not info.issparse() and not re.match(r"__[^/]*__($|/)", info.name)


def has_safe_name(key: str) -> bool:
    """Return whether a key, taken as a path, stays inside its folder."""
    path = PurePosixPath(key)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in key and "\0" not in key


def read_members(
    tar: BinaryIO, path: str, entry: IndexEntry, fields: FieldMapping
) -> tuple[SampleMembers, dict[str, bytes]]:
    """Read the members of an entry that are used.

    Args:
        tar: open file.
        path: of the tar, for errors.
        entry: of the sample in the index.
        fields: names its members.

    Raises:
        ShardError: the bytes cannot be read, or are another sample's.
    """
    stream = BytesIO(read_raw(tar, path, entry))
    location = f"{path}: {entry.modality} {entry.key!r}"

    def is_used(name: str) -> bool:
        suffix = PurePosixPath(name).name.partition(".")[2].lower()
        return _kind(suffix) != "ignored"

    try:
        files = tar_file_expander([{"url": path, "stream": stream}], select_files=is_used)
        samples = list(group_by_keys(files))
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise ShardError(
            f"{location} is corrupt: {error.args[0] if error.args else error}."
        ) from error
    if [sample["__key__"] for sample in samples] != [entry.key]:
        found = ", ".join(repr(sample["__key__"]) for sample in samples) or "nothing"
        raise ShardError(
            f"{location}: its bytes hold {found}. The tar has changed; run lit-hour index again."
        )
    contents = _without_metadata(samples[0])
    return SampleMembers.choose(list(contents), fields), contents


def decode_texts(texts: Mapping[str, bytes], location: str) -> dict[str, Any]:
    """Decode JSON and text members by webdataset's decoders, compressed ones too.

    Raises:
        ShardError: a member is not valid JSON or UTF-8, or is larger than `MAX_TEXT_BYTES`.
    """
    decoder, decoded = Decoder([]), {}
    for suffix, content in texts.items():
        name = suffix.removesuffix(GZIP_SUFFIX)
        try:
            plain = content if name == suffix else _decompress(content)
            if len(plain) > MAX_TEXT_BYTES:
                raise ShardError(
                    f"{location}: its member {suffix} is larger than {MAX_TEXT_BYTES} bytes. Text"
                    " and JSON may not be."
                )
            decoded[name] = decoder.decode1(name, plain)
        except ShardError:
            raise
        except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
            raise ShardError(f"{location}: its member {suffix} is corrupt: {error}.") from error
    return decoded


def _decompress(content: bytes) -> bytes:
    """Decompress a gzip member; a little more than `MAX_TEXT_BYTES` at most."""
    with gzip.open(BytesIO(content)) as stream:
        return stream.read(MAX_TEXT_BYTES + 1)


def _without_metadata(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {suffix: member for suffix, member in sample.items() if not suffix.startswith("__")}


def _kind(suffix: str) -> str:
    """Return the kind of a member by the last part of its suffix."""
    last = suffix.removesuffix(GZIP_SUFFIX).rpartition(".")[2]
    if last in (*JSON_SUFFIXES, *TEXT_SUFFIXES):
        return "text"
    if suffix.endswith(GZIP_SUFFIX):
        return "ignored"
    if f".{last}" in VIDEO_SUFFIXES:
        return "video"
    return "image" if f".{last}" in IMAGE_SUFFIXES else "ignored"


def _natural_order(suffix: str) -> list[tuple[int, str]]:
    """Return a sort key by which 2.jpg comes before 10.jpg."""
    parts = DIGITS.split(suffix)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
