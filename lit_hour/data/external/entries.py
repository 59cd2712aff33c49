"""Index entries of media that are decoded in training: facts of their headers, and a run's frames.

The index of a source is independent of a run's settings. `sampled_entry` adds these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config, VideoConfig
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex
from lit_hour.errors import ShardError, list_first
from lit_hour.media.published_sampling import published_frame_indices, read_frame_table
from lit_hour.media.sample_times import count_timestamps
from lit_hour.media.video_probe import probe

INDEX_VERSION = 1  # of what is read from media; another one reads them again
SAMPLING_KEYS = ("sampling", "fps", "min_frames", "max_frames")
CACHED_INDEX_FOLDER = "indexes"  # inside data.cache_folder


@dataclass(frozen=True)
class MediaFacts:
    """Facts from the header of a video or image.

    Attributes:
        num_bytes: size of the file.
        duration_seconds: of a video; otherwise 0.
        num_frames: of a video file, or 1.
        frame_rate: of a video file, in frames per second; otherwise 0.
        size_pixels: height and width of an upright image; otherwise empty.
    """

    num_bytes: int
    duration_seconds: float = 0.0
    num_frames: int = 1
    frame_rate: float = 0.0
    size_pixels: tuple[int, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> MediaFacts:
        """Parse what `dataclasses.asdict` returned."""
        return cls(**{**record, "size_pixels": tuple(record["size_pixels"])})

    def fill(self, entry: IndexEntry) -> IndexEntry:
        """Return an entry with these facts."""
        return replace(
            entry,
            duration_seconds=self.duration_seconds,
            num_frames=self.num_frames,
            frame_rate=self.frame_rate,
            size_pixels=self.size_pixels,
        )


def probe_video(path: Path, num_bytes: int) -> MediaFacts:
    """Read the header of a video file, and the headers of its packets.

    Raises:
        VideoError: it is no video.
    """
    info = probe(path)
    table = read_frame_table(info)
    return MediaFacts(num_bytes, info.duration_seconds, len(table.ticks), table.frame_rate)


def part_of(entry: IndexEntry, start_seconds: float, end_seconds: float) -> IndexEntry:
    """Return the entry of a part of a video file."""
    seconds = end_seconds - start_seconds
    num_frames = max(round(seconds * entry.frame_rate), 1)
    return replace(entry, duration_seconds=seconds, num_frames=num_frames)


def sampled_entry(entry: IndexEntry, video: VideoConfig) -> IndexEntry:
    """Return an entry with the duration and the number of frames that a run takes of a video."""
    if entry.modality != "video":
        return entry
    if video.sampling == "published":
        num_frames = len(published_frame_indices(entry.num_frames, entry.frame_rate, video))
        seconds = entry.num_frames / entry.frame_rate
        return replace(entry, num_frames=num_frames, duration_seconds=seconds)
    num_frames = count_timestamps(
        entry.duration_seconds, video.fps, video.min_frames, video.max_frames
    )
    return replace(entry, num_frames=num_frames)


def sampling_config(video: VideoConfig) -> dict[str, Any]:
    """Return the settings of a run that a source is checked against: they are the run's own."""
    return {key: getattr(video, key) for key in SAMPLING_KEYS}


def index_folder_of(source: SourceConfig, config: Config) -> Path:
    """Return the folder of indexes that cannot be beside their files."""
    return Path(source.index_folder or Path(config.data.cache_folder) / CACHED_INDEX_FOLDER)


def check_skipped(indexes: Sequence[ShardIndex], max_skipped: int, folder: str = "") -> None:
    """Check that few enough samples are missing, and that some are left.

    Args:
        indexes: of all shards.
        max_skipped: samples that may be missing.
        folder: of a source of files, whose shards are not files of the user.

    Raises:
        ShardError: more cannot be used than `pack.max_bad_samples`, or all of them.
    """
    skipped = [
        f"{folder or index.shard}: {sample.name}: {sample.reason}"
        for index in indexes
        for sample in index.skipped
    ]
    if len(skipped) > max_skipped:
        raise ShardError(
            f"{len(skipped)} samples cannot be used: {list_first(skipped, '; ')}. Repair them, or"
            f" leave them out with pack.max_bad_samples={len(skipped)} (now {max_skipped})."
        )
    if not any(index.entries for index in indexes):
        reasons = f" ({list_first(skipped, '; ')})" if skipped else ""
        if folder:
            raise ShardError(f"{folder}: no sample can be used{reasons}. Give intact files.")
        raise ShardError(
            f"{list_first([index.shard for index in indexes])}: no sample can be used{reasons}."
            " Samples need a video, images or JSON by webdataset's names: KEY.mp4, KEY.json,"
            " KEY.txt."
        )
