"""Prepare the videos of a folder as footage: `prepare_footage`.

A video that fits is used as it is, and its packets are copied. Any other is encoded once, into the
folder of the set. What was found out about a file is kept there too, so that a second start does
not decode it again.
"""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from lit_hour.errors import SyntheticDataError, VideoError, list_first
from lit_hour.io.atomic import atomic_write_text
from lit_hour.media.splicing.conform import check_decodes, conform_video
from lit_hour.media.splicing.footage import (
    TICKS_PER_SECOND,
    Footage,
    FrameSize,
    UncopyableError,
    index_footage,
)
from lit_hour.media.video_probe import VIDEO_SUFFIXES
from lit_hour.media.worker_process import exit_with_parent
from lit_hour.synthetic.render_pool import explain_broken_pool

DEFAULT_SIZE = FrameSize(640, 360)  # where no video of the folder can be copied
SHORTEST_CLIP_SECONDS = 1.0
# Under a photograph every GOP is encoded again, and every frame may last.
MAX_GOP_SECONDS, MAX_FRAME_SECONDS = 20.0, 0.25
ENCODED_FOLDER, RECORD_FILE = "footage", "checked.json"


@dataclass(frozen=True)
class CheckedVideo:
    """Result of checking a file of the folder.

    Attributes:
        num_bytes: size of the file.
        encoded: name of the encoded file; empty if the file itself is used.
        fault: why the file cannot be used; empty if it can.
    """

    num_bytes: int
    encoded: str = ""
    fault: str = ""


@dataclass(frozen=True)
class FootageLibrary:
    """Videos of one frame size.

    Attributes:
        clips: in the order of their paths.
        num_encoded: clips that had to be encoded.
    """

    clips: tuple[Footage, ...]
    num_encoded: int


def prepare_footage(
    folder: Path, out: Path, size: FrameSize | None, num_workers: int
) -> FootageLibrary:
    """Check the videos of a folder at any depth, and encode those that do not fit.

    Args:
        folder: of the videos.
        out: folder of the set, which is locked; files are written to `ENCODED_FOLDER` in it.
        size: of the frames; the size of most seconds of footage if None.
        num_workers: processes that decode and encode.

    Raises:
        SyntheticDataError: the folder has no usable video.
        OSError: a file cannot be written.
    """
    paths = find_videos(folder)
    encoded_folder = out / ENCODED_FOLDER
    encoded_folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    checked: dict[Path, CheckedVideo] = {}
    with (
        explain_broken_pool(),
        ProcessPoolExecutor(num_workers, context, initializer=exit_with_parent) as pool,
    ):
        indexed = dict(zip(paths, pool.map(_index, paths), strict=True))
        size = size or _commonest_size(indexed.values())
        known = _read_record(encoded_folder, size)
        jobs = [
            (path, encoded_folder / f"{number:05d}.mp4", size, known.get(_key(path, folder)))
            for number, path in enumerate(paths)
        ]
        results = tqdm(pool.map(_check, jobs), "footage", len(jobs), unit="video", disable=None)
        for path, item in zip(paths, results, strict=True):
            checked[path] = item
            if item.encoded and item != known.get(_key(path, folder)):
                _write_record(encoded_folder, folder, size, checked)
    _write_record(encoded_folder, folder, size, checked)
    if faults := [item.fault for item in checked.values() if item.fault]:
        listed = list_first(faults, " ")
        warnings.warn(f"{len(faults)} videos are left out: {listed}", stacklevel=2)
    usable = {path: item for path, item in checked.items() if not item.fault}
    if not usable:
        raise SyntheticDataError(
            f"{folder} has {len(paths)} videos, but none that can be used. Give intact videos of at"
            f" least {SHORTEST_CLIP_SECONDS:g} s."
        )
    clips = []
    for path, item in usable.items():
        index = indexed[path]
        if item.encoded or isinstance(index, str):
            index = index_footage(encoded_folder / item.encoded)
        clips.append(index)
    return FootageLibrary(tuple(clips), sum(bool(item.encoded) for item in usable.values()))


def find_videos(folder: Path) -> list[Path]:
    """Return the video files of a folder at any depth, sorted.

    Raises:
        SyntheticDataError: there are none.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    )
    if not paths:
        fault = "has no video" if folder.is_dir() else "is not a folder"
        raise SyntheticDataError(f"{folder} {fault}. --footage takes a folder of real videos.")
    return paths


def _key(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _index(path: Path) -> Footage | str:
    """Return the index of a video, or why it cannot be copied or read."""
    try:
        return index_footage(path)
    except VideoError as error:
        return str(error)


def _commonest_size(indexed: Iterable[Footage | str]) -> FrameSize:
    """Return the frame size, of even sides, of most seconds of the footage that can be copied."""
    ticks: Counter[FrameSize] = Counter()
    for footage in indexed:
        if isinstance(footage, Footage) and not footage.size.width % 2 | footage.size.height % 2:
            ticks[footage.size] += footage.end
    return max(ticks, key=lambda size: (ticks[size], size.width), default=DEFAULT_SIZE)


def _check(job: tuple[Path, Path, FrameSize, CheckedVideo | None]) -> CheckedVideo:
    """Check that a video decodes, and encode it if it does not fit."""
    path, encoded, size, known = job
    num_bytes = path.stat().st_size
    is_known = known is not None and known.num_bytes == num_bytes
    if known is not None and is_known and (not known.encoded or encoded.exists()):
        return known
    try:
        footage = index_footage(path)
        if footage.size == size and _is_fine_grained(footage):
            check_decodes(footage)
            return _check_duration(path, footage, CheckedVideo(num_bytes))
    except UncopyableError:
        pass
    except VideoError as error:
        return CheckedVideo(num_bytes, fault=str(error))
    try:
        footage = conform_video(path, encoded, size)
        return _check_duration(path, footage, CheckedVideo(num_bytes, encoded.name))
    except VideoError as error:
        return CheckedVideo(num_bytes, fault=str(error))


def _is_fine_grained(footage: Footage) -> bool:
    """Return whether no frame and no GOP lasts too long for a photograph to be put in."""
    bounds = [*(footage.starts[frame] for frame in footage.gop_frames), footage.end]
    longest_gop = max(later - earlier for earlier, later in pairwise(bounds))
    return (
        footage.longest_frame <= MAX_FRAME_SECONDS * TICKS_PER_SECOND
        and longest_gop <= MAX_GOP_SECONDS * TICKS_PER_SECOND
    )


def _check_duration(path: Path, footage: Footage, checked: CheckedVideo) -> CheckedVideo:
    seconds = footage.end / TICKS_PER_SECOND
    if seconds >= SHORTEST_CLIP_SECONDS:
        return checked
    return CheckedVideo(checked.num_bytes, fault=f"{path} lasts {seconds:.2f} s, too short.")


def _write_record(
    encoded_folder: Path, folder: Path, size: FrameSize, checked: dict[Path, CheckedVideo]
) -> None:
    record = {_key(path, folder): asdict(item) for path, item in checked.items()}
    text = json.dumps({str(size): record}, indent=1)
    atomic_write_text(encoded_folder / RECORD_FILE, text)


def _read_record(folder: Path, size: FrameSize) -> dict[str, CheckedVideo]:
    """Return what a former start has found out, if it was for the same frame size."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return {name: CheckedVideo(**item) for name, item in record.get(str(size), {}).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
