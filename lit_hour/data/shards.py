"""A folder of packed shards in, the frames and questions of single videos out. Damage is named, never passed over."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_hour.data.index import SHARD_PATTERN, TOTALS_NAME, VERSION, ShardIndex, VideoRecord, read_index, read_json
from lit_hour.data.questions import parse_question
from lit_hour.errors import ShardError, VideoError
from lit_hour.types import Frames, Question
from lit_hour.video.transform import decode_jpeg


@dataclass(frozen=True)
class StoredVideo:
    """One video as its shard holds it.

    Attributes:
        place: the shard's path and the key, for errors.
        source: name of the video file.
        timestamps_seconds: of each frame.
        jpegs: member name and bytes of each frame.
    """

    place: str
    key: str
    source: str
    duration_seconds: float
    timestamps_seconds: tuple[float, ...]
    questions: tuple[Question, ...]
    jpegs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Shards:
    """The indexes of a folder of shards. It holds no open file, so that it can be sent to other processes."""

    folder: Path
    indexes: tuple[ShardIndex, ...]

    @property
    def videos(self) -> tuple[VideoRecord, ...]:
        """Every video, shard by shard."""
        return tuple(video for index in self.indexes for video in index.videos)

    def samples_per_shard(self, questions_per_sample: int) -> tuple[int, ...]:
        """How many samples each shard has when a sample is a video with up to so many consecutive questions."""
        return tuple(sum(_num_samples(video, questions_per_sample) for video in index.videos) for index in self.indexes)

    def locate(self, shard: int, sample: int, questions_per_sample: int) -> tuple[VideoRecord, slice]:
        """The video of a sample of a shard, and which of the video's questions the sample asks.

        Raises:
            IndexError: the shard has fewer samples.
        """
        for video in self.indexes[shard].videos:
            num_samples = _num_samples(video, questions_per_sample)
            if sample < num_samples:
                return video, slice(sample * questions_per_sample, (sample + 1) * questions_per_sample)
            sample -= num_samples
        raise IndexError(f"shard {shard} of {self.folder} has {sample} samples too few")

    def read_video(self, video: VideoRecord) -> StoredVideo:
        """Read one video's part of its tar, in one go; its frames stay JPEG.

        Raises:
            ShardError: the tar is shorter than its index says, a member is missing or damaged, or `KEY.json` does not fit.
        """
        path = self.folder / video.shard
        place = f"{path}: video {video.key!r}"
        members = _members(_read_range(path, video), place)
        expected = [f"{video.key}.{frame:06d}.jpg" for frame in range(video.num_frames)] + [f"{video.key}.json"]
        contents = []
        for name in expected:
            found, content = next(members, ("nothing readable", b""))
            if found != name:
                raise ShardError(f"{place}: the member {name} is missing or its header is damaged; found {found}")
            contents.append((name, content))
        for found, _ in members:
            raise ShardError(f"{place}: the member {found} is not in the index")
        metadata_name, metadata = contents.pop()
        return _stored_video(metadata, video, tuple(contents), place, metadata_name)


def open_shards(folder: Path) -> Shards:
    """Read the indexes of a folder that `python -m lit_hour pack` has filled.

    Raises:
        ShardError: the folder holds no shards, packing has not finished, or a tar is missing or has another size.
    """
    paths = sorted(folder.glob(SHARD_PATTERN + ".json"))
    if not paths:
        raise ShardError(f"{folder} holds no shards: make some with python -m lit_hour pack VIDEOS QUESTIONS {folder}")
    totals_path = folder / TOTALS_NAME
    if not totals_path.is_file():
        raise ShardError(f"{folder} is not finished ({TOTALS_NAME} is missing): run the same pack command again")
    num_shards = read_json(totals_path).get("num_shards")
    if num_shards != len(paths):
        raise ShardError(f"{folder} holds {len(paths)} shards, but {totals_path} counts {num_shards}: pack again")
    indexes = tuple(read_index(path) for path in paths)
    for index in indexes:
        tar = folder / index.shard
        if not tar.is_file():
            raise ShardError(f"{tar} is missing, but its index is there: delete the index and pack again")
        if tar.stat().st_size != index.bytes:
            raise ShardError(
                f"{tar} has {tar.stat().st_size} bytes, its index says {index.bytes}: it is damaged, pack it again"
            )
    return Shards(folder, indexes)


def load_frames(video: StoredVideo, size_pixels: int, max_frames: int) -> Frames:
    """Decode a stored video's frames; of more than `max_frames`, that many that are spread evenly.

    Returns:
        `images` `(frames, 3, size_pixels, size_pixels)` uint8, `timestamps` `(frames,)` in seconds.

    Raises:
        ShardError: a JPEG does not decode or has another size.
    """
    num_frames = len(video.jpegs)
    num_chosen = min(num_frames, max_frames)
    chosen = [row * (num_frames - 1) // max(num_chosen - 1, 1) for row in range(num_chosen)]
    images = torch.empty(len(chosen), 3, size_pixels, size_pixels, dtype=torch.uint8)  # (frames, 3, size, size)
    for row, frame in enumerate(chosen):
        name, jpeg = video.jpegs[frame]
        try:
            images[row] = decode_jpeg(jpeg, size_pixels, name)
        except VideoError as error:
            raise ShardError(f"{video.place}: member {name} does not decode: {error}") from error
    timestamps = torch.tensor([video.timestamps_seconds[frame] for frame in chosen])  # (frames,)
    return Frames(images, timestamps)


def _num_samples(video: VideoRecord, questions_per_sample: int) -> int:
    return -(-video.num_questions // questions_per_sample)


def _read_range(path: Path, video: VideoRecord) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(video.offset)
            content = stream.read(video.size)
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    if len(content) < video.size:
        raise ShardError(f"{path} ends inside the video {video.key!r}: the tar is truncated, pack it again")
    return content


def _members(content: bytes, place: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member; at a damaged header it ends, which the caller sees as a missing member."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is None:
                    raise ShardError(f"{place}: the member {member.name} is no file")
                yield member.name, stream.read()
    except tarfile.TarError as error:
        raise ShardError(f"{place}: this part of the tar is damaged: {error}") from error


def _stored_video(
    metadata: bytes, video: VideoRecord, jpegs: tuple[tuple[str, bytes], ...], place: str, name: str
) -> StoredVideo:
    """Check `KEY.json` against the index, and put the parts together."""
    member = f"{place}: member {name}"
    try:
        record: dict[str, Any] = json.loads(metadata)
        version, questions = record["version"], record["questions"]
        stored = StoredVideo(
            place=place,
            key=record["key"],
            source=record["source"],
            duration_seconds=float(record["duration_seconds"]),
            timestamps_seconds=tuple(float(moment) for moment in record["timestamps_seconds"]),
            questions=tuple(parse_question(question, member) for question in questions),
            jpegs=jpegs,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{member} is damaged: {error!r}") from error
    if version != VERSION:
        raise ShardError(f"{member} has version {version!r}, this program reads version {VERSION}: pack the videos again")
    counts = (stored.key, len(stored.timestamps_seconds), len(stored.questions))
    if counts != (video.key, video.num_frames, video.num_questions):
        raise ShardError(f"{member} has (key, frames, questions) {counts}, which does not fit the index")
    return stored
