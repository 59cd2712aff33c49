"""Videos with a needle: `Haystack` writes them by copying the packets of the user's video.

Only the group of pictures in which the needle is put may have to be encoded again, and a video
that cannot be copied at all is encoded once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_hour.errors import InputError, VideoError
from lit_hour.media.image_reader import IMAGE_SUFFIXES, read_image
from lit_hour.media.splicing.conform import check_decodes, conform_image, conform_video
from lit_hour.media.splicing.footage import (
    TICKS_PER_SECOND,
    Footage,
    FrameSize,
    UncopyableError,
    index_footage,
)
from lit_hour.media.splicing.splice import Excerpt, splice_video
from lit_hour.media.video_probe import probe

MAX_ENCODED_HEIGHT = 480  # pixels of a video that cannot be copied
# A needle is moved by up to this share of the video if no frame has to be encoded again then.
DEPTH_TOLERANCE = 0.005

ENCODED_FILE = "haystack.mp4"  # of a video that cannot be copied


@dataclass(frozen=True)
class NeedlePosition:
    """Position of a needle in a video.

    Attributes:
        depth: share of the video's other frames, by time, that come before it.
        interval: start and end in seconds.
        duration_seconds: of the video with the needle.
    """

    depth: float
    interval: tuple[float, float]
    duration_seconds: float


def open_haystack_video(path: Path, folder: Path) -> Footage:
    """Index a video, or encode it in `folder` if its packets cannot be copied.

    Raises:
        VideoError: it cannot be decoded to its end.
        OSError: the encoded file cannot be written.
    """
    try:
        footage = index_footage(path)
        if footage.size.width % 2 == footage.size.height % 2 == 0:
            return footage
        reason = f"its frames of {footage.size} pixels have an odd side"
    except UncopyableError as error:
        reason = str(error)
    target = folder / ENCODED_FILE
    if not target.exists():
        warnings.warn(f"{path} is encoded again, since {reason}.", stacklevel=2)
        info = probe(path)
        scale = min(1.0, MAX_ENCODED_HEIGHT / info.height)
        size = FrameSize(_even(info.width * scale), _even(info.height * scale))
        return conform_video(path, target, size)
    return index_footage(target)


def open_needle(path: Path, folder: Path, number: int, size: FrameSize, seconds: float) -> Footage:
    """Turn an image or a clip into footage of a frame size.

    Args:
        path: an image, or a video.
        folder: for the encoded file.
        number: of the needle, which names its file.
        size: of the video into which it is put.
        seconds: for which an image is shown; at most so much of a clip is used.

    Raises:
        ImageError, VideoError: it cannot be decoded.
        OSError: the encoded file cannot be written.
    """
    target = folder / f"needle{number}.mp4"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}). Give an image.") from error
        return conform_image(read_image(data, str(path)), target, size, seconds)
    try:
        clip = index_footage(path)
        if clip.size == size and clip.end <= seconds * TICKS_PER_SECOND:
            check_decodes(clip)
            return clip
    except UncopyableError:
        pass
    return conform_video(path, target, size, seconds)


def find_parts(footage: Footage, seconds: float, num_parts: int) -> list[int]:
    """Return the first frame of evenly spaced parts of a video, each at a closed GOP.

    Args:
        footage: the user's video.
        seconds: duration of a part. Parts that are longer than the video go on at its start.
        num_parts: number of parts.

    Raises:
        InputError: two parts would begin with the same frame.
    """
    free = footage.end - round(seconds * TICKS_PER_SECOND)
    # The first and the last part of a longer video are its beginning and its end.
    step = free / max(1, num_parts - 1) if free > 0 else footage.end / num_parts
    frames = [footage.frame_at(round(part * step)) for part in range(num_parts)]
    last = footage.num_frames - 1
    starts = [footage.gop_frames[footage.gop_of(min(frame, last))] for frame in frames]
    if (num_different := len(set(starts))) < num_parts:
        raise InputError(
            f"{footage.path} has only {num_different} different parts of {seconds:.0f} s that begin"
            f" with a key frame. Lower --repeats to {num_different}."
        )
    return starts


class Haystack:
    """An excerpt of a video that lasts as long as wanted; a shorter video is repeated."""

    def __init__(self, footage: Footage, seconds: float, first_frame: int = 0) -> None:
        """Choose the excerpts.

        Args:
            footage: the user's video.
            seconds: duration without the needle.
            first_frame: with which the excerpt begins; behind the last one the first one follows.

        Raises:
            VideoError: the duration is less than one frame.
        """
        ticks = round(seconds * TICKS_PER_SECOND)
        if ticks < 1:
            raise VideoError(
                f"Without its needle the video would last {seconds:.1f} s. Give longer --lengths."
            )
        first = first_frame
        self.num_repetitions = 0
        self._excerpts: list[Excerpt] = []
        left = ticks
        while left > 0:
            end = footage.frame_at(footage.starts[first] + left)
            end = max(first + 1, min(end, footage.num_frames))
            self._excerpts.append(Excerpt(footage, first, end))
            left -= self._excerpts[-1].ticks
            first = 0
            self.num_repetitions += 1

    def write(self, path: Path, needle: Footage | None, depth: float) -> NeedlePosition:
        """Write the video with the needle at a depth, or without it.

        Args:
            path: file to write.
            needle: of the same frame size; None for no needle.
            depth: share of the haystack before the needle, from 0 to 1.

        Raises:
            VideoError: a frame that has to be encoded again cannot be decoded.
            OSError: the file cannot be written.
        """
        total = sum(excerpt.ticks for excerpt in self._excerpts)
        if needle is None:
            splice_video(path, self._excerpts)
            return NeedlePosition(depth, (0.0, 0.0), total / TICKS_PER_SECOND)
        before, after = self._split(round(depth * total), round(DEPTH_TOLERANCE * total))
        splice_video(path, [*before, Excerpt(needle, 0, needle.num_frames), *after])
        start = sum(excerpt.ticks for excerpt in before)
        return NeedlePosition(
            start / total,
            (start / TICKS_PER_SECOND, (start + needle.end) / TICKS_PER_SECOND),
            (total + needle.end) / TICKS_PER_SECOND,
        )

    def _split(self, ticks: int, tolerance: int) -> tuple[list[Excerpt], list[Excerpt]]:
        """Cut the excerpts at a time, or at the nearest closed GOP within a tolerance."""
        before: list[Excerpt] = []
        start = 0
        for index, excerpt in enumerate(self._excerpts):
            if start + excerpt.ticks >= ticks or index == len(self._excerpts) - 1:
                break
            before.append(excerpt)
            start += excerpt.ticks
        frame = _cut_frame(excerpt, ticks - start, tolerance)
        rest = self._excerpts[index + 1 :]
        if frame > excerpt.first_frame:
            before.append(Excerpt(excerpt.footage, excerpt.first_frame, frame))
        if frame < excerpt.end_frame:
            rest.insert(0, Excerpt(excerpt.footage, frame, excerpt.end_frame))
        return before, rest


def _cut_frame(excerpt: Excerpt, ticks: int, tolerance: int) -> int:
    """Return the frame of an excerpt before which it is cut."""
    footage = excerpt.footage
    wanted = footage.starts[excerpt.first_frame] + ticks
    exact = min(max(footage.frame_at(wanted), excerpt.first_frame), excerpt.end_frame)
    bounds = {excerpt.first_frame, excerpt.end_frame}
    bounds |= {
        frame for frame in footage.gop_frames if excerpt.first_frame < frame < excerpt.end_frame
    }
    nearest = min(bounds, key=lambda frame: abs(footage.start_of(frame) - wanted))
    return nearest if abs(footage.start_of(nearest) - wanted) <= tolerance else exact


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))


@contextmanager
def temporary_video(path: Path) -> Iterator[Path]:
    """Yield the path of a video that is deleted at the end of the block."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
