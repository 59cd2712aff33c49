"""Find out from the structure of a file whether it is cut or holds more than one video.

Containers say how long they are, and players do not look. Nothing here is needed to decode a file.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lit_hour.io.file_kinds import describe_wrong_kind

_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot")
HEAD_BYTES = 4096
MAX_SAMPLE_ENTRY_BYTES = 2**16
_AUDIO_ENTRIES = (b"mp4a", b"ac-3", b"ec-3", b"Opus", b"fLaC", b"sowt", b"twos", b"lpcm", b"alac")
_EBML_ID, _SEGMENT_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_CLUSTER_ID = b"\x1f\x43\xb6\x75"
_PIXEL_CROPS = (b"\x54\xaa", b"\x54\xbb", b"\x54\xcc", b"\x54\xdd")
_ASF_START = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Formats without a length in their header: where they begin again, another file was joined.
_ONCE = {
    _ASF_START: _ASF_START,
    b"nut/multimedia container\0": b"nut/multimedia container\0",
    b".RMF": b".RMF\0\0\0\x12",
    b"FILM": b"FDSC\0\0\0\x20",  # Sega FILM: the chunk behind the first
    bytes.fromhex("b7d800203749da11a64e0007e95ead8d"): bytes.fromhex(
        "b7d800203749da11a64e0007e95ead8d"  # wtv
    ),
}
_SWF_START, _SWF_HEADER = b"FWS", "<3sBI"
_OGG_PAGE, _OGG_HEADER_BYTES = b"OggS", 27
_FLV_TAG_TYPES = (8, 9, 18)
JOINED_FAULT = "another video is joined to its end, which cannot be read"


def find_structure_fault(path: Path) -> str:
    """Return how a video file is cut, or what of it players pass over, or "" if it is complete.

    mp4 and mov, mkv and webm, avi, flv, asf (wmv), swf and ogg say where they, or their last part,
    end. In asf, nut, rm, wtv and Sega FILM a second beginning is looked for. Of other files nothing
    is known.
    """
    with path.open("rb") as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        head = stream.read(HEAD_BYTES)
        if head[4:8] in _MP4_FIRST_BOXES:
            return _mp4_fault(stream, num_bytes)
        if head.startswith(_EBML_ID):
            return _matroska_fault(stream, num_bytes)
        if head.startswith(b"RIFF"):
            return _riff_fault(stream, num_bytes)
        if head.startswith(b"FLV"):
            return _flv_fault(stream, num_bytes)
        if head.startswith(_OGG_PAGE):
            return _ogg_fault(stream, num_bytes)
        if head.startswith(_SWF_START):
            return _swf_fault(head, num_bytes)
        fault = _asf_fault(head, num_bytes) if head.startswith(_ASF_START) else ""
        return fault or _repeated_start_fault(stream, head)


def explain_unreadable(path: Path) -> str:
    """Return why a file cannot be opened as a video and what to do, or "" if nothing is known."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    kind = describe_wrong_kind(head)
    if kind:
        return kind.removesuffix(".")
    fault = find_structure_fault(path)
    if fault:
        return f"cannot be opened as a video: {fault}. Download it again"
    if head[4:8] in _MP4_FIRST_BOXES:
        return (
            "cannot be opened as a video: it has no index (moov), as a recording that was not"
            " finished. Record or convert it again"
        )
    return ""


def asks_for_crop(path: Path) -> bool:
    """Return whether container metadata crops the edges, which PyAV does not report."""
    with path.open("rb") as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        head = stream.read(HEAD_BYTES)
        if head[4:8] in _MP4_FIRST_BOXES:
            return any(_has_clean_aperture(data) for data in _sample_entries(stream, num_bytes))
        if head.startswith(_EBML_ID):
            return any(_matroska_crops(stream, num_bytes))
    return False


def _sample_entries(stream: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Yield the descriptions of the video tracks of an mp4 or mov file."""
    bounds = [(0, num_bytes)]
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        bounds = [
            (start + 8, min(end, num_bytes))
            for first, last in bounds
            for kind, start, end in _mp4_boxes(stream, last, first)
            if kind == name
        ]
    for start, end in bounds:
        num_read = min(max(end - start - 8, 0), MAX_SAMPLE_ENTRY_BYTES)
        data = _read_at(stream, start + 8, num_read)
        if data[4:8] not in _AUDIO_ENTRIES:
            yield data


def _has_clean_aperture(entry: bytes) -> bool:
    """Return whether a description of a video track has a `clap` smaller than its frames."""
    start = entry.find(b"clap", 86) + 4  # behind the fields of every description
    if start < 90 or len(entry) < start + 16:
        return False
    width, height = struct.unpack_from(">HH", entry, 32)
    values = struct.unpack_from(">IIII", entry, start)
    return values[0] < width * values[1] or values[2] < height * values[3]


def _matroska_crops(stream: BinaryIO, num_bytes: int) -> Iterator[int]:
    """Yield the pixels that each edge of the tracks of a Matroska file loses."""
    bounds = [(0, num_bytes)]
    for name in (_SEGMENT_ID, b"\x16\x54\xae\x6b", b"\xae", b"\xe0"):  # Tracks, a track, its video
        bounds = [
            (start, min(end, num_bytes))
            for first, last in bounds
            for kind, start, end in _ebml_elements(stream, first, last)
            if kind == name
        ]
    for first, last in bounds:
        for kind, start, end in _ebml_elements(stream, first, last):
            if kind in _PIXEL_CROPS:
                yield int.from_bytes(_read_at(stream, start, end - start), "big")


def _ebml_elements(stream: BinaryIO, first: int, last: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the id, the start and the end of the content of elements, up to the first cluster."""
    offset = first
    while offset < last and (data := _read_at(stream, offset, 16)):
        id_bytes = 9 - data[0].bit_length() if data[0] else 8
        kind = data[:id_bytes]
        size, length = _ebml_size(data[id_bytes:])
        start = offset + id_bytes + length
        end = last if size is None else start + size
        if kind == _CLUSTER_ID:
            return
        yield kind, start, end
        offset = end


def _cut(num_bytes: int, complete_bytes: int, part: str = "") -> str:
    return f"it ends after {num_bytes:,} of {complete_bytes:,} bytes{part}"


def _read_at(stream: BinaryIO, offset: int, num_bytes: int) -> bytes:
    if offset >= os.fstat(stream.fileno()).st_size:  # a system refuses offsets of damaged sizes
        return b""
    stream.seek(offset)
    return stream.read(num_bytes)


def _mp4_boxes(
    stream: BinaryIO, num_bytes: int, first: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start and the end of every box, from `first` to `num_bytes`."""
    offset = first
    while offset + 8 <= num_bytes:
        header = _read_at(stream, offset, 16)
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        elif size == 0:  # until the end of the file
            size = num_bytes - offset
        if size < 8:
            return
        yield kind, offset, offset + size
        offset += size


def _mp4_fault(stream: BinaryIO, num_bytes: int) -> str:
    boxes = list(_mp4_boxes(stream, num_bytes))
    kinds = [kind for kind, _, _ in boxes]
    last_kind, _, end = boxes[-1] if boxes else (b"", 0, num_bytes)
    if end > num_bytes and last_kind.isalnum():
        part = "" if b"moov" in kinds else ", before its index (moov)"
        return _cut(num_bytes, end, part)
    if kinds.count(b"moov") > 1 and b"moof" not in kinds:
        return JOINED_FAULT
    return ""


def _ebml_size(data: bytes) -> tuple[int | None, int]:
    """Return a size in bytes, None for an unknown size, and the length of the number in bytes."""
    length = 9 - data[0].bit_length() if data and data[0] else 1
    largest = (1 << 7 * length) - 1
    size = int.from_bytes(data[:length], "big") & largest
    return (None if size == largest else size), length


def _matroska_fault(stream: BinaryIO, num_bytes: int) -> str:
    offset = num_segments = 0
    while _read_at(stream, offset, 4) == _EBML_ID:
        header_bytes, length = _ebml_size(_read_at(stream, offset + 4, 8))
        offset += 4 + length + (header_bytes or 0)
        data = _read_at(stream, offset, 12)
        segment_bytes, length = _ebml_size(data[4:])
        if not data.startswith(_SEGMENT_ID) or segment_bytes is None:  # a live recording
            return ""
        offset += 4 + length + segment_bytes
        num_segments += 1
    if num_segments > 2:  # FFmpeg reads two
        return JOINED_FAULT
    return _cut(num_bytes, offset) if offset > num_bytes else ""


def _riff_fault(stream: BinaryIO, num_bytes: int) -> str:
    offset = 0
    while offset + 12 <= num_bytes:
        tag, size = struct.unpack("<4sI", _read_at(stream, offset, 8))
        if tag != b"RIFF" or size == 0:  # a recording that was not finished has no size
            return ""
        end = offset + 8 + size
        if end > num_bytes:
            return _cut(num_bytes, end)
        offset = end + size % 2
    return ""


def _flv_fault(stream: BinaryIO, num_bytes: int) -> str:
    """Compare the size that ends the file with the tag before it."""
    tag_bytes = int.from_bytes(_read_at(stream, max(num_bytes - 4, 0), 4), "big")
    if not 11 <= tag_bytes <= num_bytes - 4:
        return "it ends inside a frame"
    tag = _read_at(stream, num_bytes - 4 - tag_bytes, 11)
    is_tag = tag[0] & 31 in _FLV_TAG_TYPES and int.from_bytes(tag[1:4], "big") + 11 == tag_bytes
    return "" if is_tag else "it ends inside a frame"


def _asf_fault(head: bytes, num_bytes: int) -> str:
    start = head.find(_ASF_FILE_PROPERTIES)
    if start < 0 or len(head) < start + 92:
        return ""
    complete_bytes, flags = (
        int.from_bytes(head[start + 40 : start + 48], "little"),
        int.from_bytes(head[start + 88 : start + 92], "little"),
    )
    is_broadcast = flags & 1  # then no size is given
    return (
        _cut(num_bytes, complete_bytes) if not is_broadcast and complete_bytes > num_bytes else ""
    )


def _swf_fault(head: bytes, num_bytes: int) -> str:
    if len(head) < struct.calcsize(_SWF_HEADER):
        return ""
    *_, complete_bytes = struct.unpack_from(_SWF_HEADER, head)
    if complete_bytes > num_bytes:
        return _cut(num_bytes, complete_bytes)
    return JOINED_FAULT if complete_bytes < num_bytes else ""


def _repeated_start_fault(stream: BinaryIO, head: bytes) -> str:
    """Find a second beginning in a file; the first is within its head."""
    for start, marker in _ONCE.items():
        if head.startswith(start):
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                first = content.find(marker)
                return JOINED_FAULT if content.find(marker, first + 1) >= 0 else ""
    return ""


def _ogg_fault(stream: BinaryIO, num_bytes: int) -> str:
    """Find the end of the last page: a header, the lengths of its segments, and these."""
    offset = 0
    while (header := _read_at(stream, offset, _OGG_HEADER_BYTES)).startswith(_OGG_PAGE):
        num_segments = header[-1] if len(header) == _OGG_HEADER_BYTES else 0
        lengths = _read_at(stream, offset + _OGG_HEADER_BYTES, num_segments)
        offset += _OGG_HEADER_BYTES + num_segments + sum(lengths)
        if offset > num_bytes:
            return _cut(num_bytes, offset)
    return ""
