"""Draw what a video of real footage shows: clips, and photographs over them.

`generate_footage_story` is the entry point. Everything follows from the seed of the plan, the
footage and the photographs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random

from lit_hour.config.synthetic import FootageConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage
from lit_hour.media.splicing.splice import Excerpt
from lit_hour.synthetic.footage.photo_library import PhotoLibrary
from lit_hour.synthetic.story import Interval
from lit_hour.synthetic.video_plan import VideoPlan

MAX_CLIP_SECONDS = 30.0
# Before the first photograph, between two, and behind the last: the first frame shows none.
GAP_SECONDS = 3.0


@dataclass(frozen=True)
class PhotoMotion:
    """Size and motion of a photograph in the frame.

    Attributes:
        area: share of the frame; 1 for all of it.
        position: of its region in the free space, horizontally and vertically, in [0, 1].
        crops: share of the photograph's sides that is shown at the start and at the end.
        pans: position of the shown part at the start and at the end, each as `position`.
        is_faded: fades in and out; otherwise it appears and disappears at once.
    """

    area: float
    position: tuple[float, float]
    crops: tuple[float, float]
    pans: tuple[tuple[float, float], tuple[float, float]]
    is_faded: bool


@dataclass(frozen=True)
class ShownPhoto:
    """A photograph in a video, and the interval of the frames that show it, in ticks."""

    category: str
    path: Path
    start: int
    end: int
    motion: PhotoMotion

    @property
    def interval(self) -> Interval:
        """Return the interval in seconds."""
        return self.start / TICKS_PER_SECOND, self.end / TICKS_PER_SECOND


@dataclass(frozen=True)
class FootageStory:
    """Content of a video.

    Attributes:
        seed: from which it was drawn.
        clips: excerpts of footage, one after the other.
        photos: in order of time, without overlap, each of another category.
        categories: of all photographs that could have been shown.
        photo_counts: numbers of photographs that a video can have.
    """

    seed: int
    clips: tuple[Excerpt, ...]
    photos: tuple[ShownPhoto, ...]
    categories: tuple[str, ...]
    photo_counts: range

    @property
    def duration_seconds(self) -> float:
        """Return the duration of the video."""
        return sum(clip.ticks for clip in self.clips) / TICKS_PER_SECOND


def generate_footage_story(
    plan: VideoPlan, footage: Sequence[Footage], library: PhotoLibrary, settings: FootageConfig
) -> FootageStory:
    """Draw the story of a planned video.

    Raises:
        SyntheticDataError: the video is too short for its photographs.
    """
    random = Random(f"footage of story {plan.seed}")
    clips = _draw_clips(footage, round(plan.duration_seconds * TICKS_PER_SECOND), random)
    most = min(settings.max_photos, len(library.categories))
    photo_counts = range(min(settings.min_photos, most), most + 1)
    categories = random.sample(library.categories, random.choice(photo_counts))
    seconds = [
        random.uniform(settings.min_photo_seconds, settings.max_photo_seconds) for _ in categories
    ]
    starts = _draw_starts(plan, seconds, sum(clip.ticks for clip in clips), random)
    timeline = _Timeline(clips)
    photos = []
    for category, start, duration in zip(categories, starts, seconds, strict=True):
        path = random.choice(library.photos[category])
        first = timeline.snap(round(start * TICKS_PER_SECOND))
        end = timeline.snap(round((start + duration) * TICKS_PER_SECOND))
        photos.append(ShownPhoto(category, path, first, end, _draw_motion(random)))
    return FootageStory(plan.seed, tuple(clips), tuple(photos), library.categories, photo_counts)


def _draw_clips(footage: Sequence[Footage], ticks: int, random: Random) -> list[Excerpt]:
    """Draw excerpts of closed GOPs until they last so many ticks; the last one is cut to fit."""
    max_ticks = round(MAX_CLIP_SECONDS * TICKS_PER_SECOND)
    weights = [min(clip.end, max_ticks) for clip in footage]
    clips: list[Excerpt] = []
    left = ticks
    while left > 0:
        (source,) = random.choices(footage, weights)
        if clips and len(footage) > 1 and source is clips[-1].footage:
            continue
        first = random.choice(source.gop_frames)
        begin = source.starts[first]
        bounds = [*source.gop_frames, source.num_frames]
        ends = [end for end in bounds if first < end and source.start_of(end) - begin <= max_ticks]
        end = max(ends, default=bounds[source.gop_of(first) + 1])
        if source.start_of(end) - begin > left:
            end = max(first + 1, source.frame_at(begin + left))
        clips.append(Excerpt(source, first, end))
        left -= clips[-1].ticks
    return clips


def _draw_starts(
    plan: VideoPlan, seconds: Sequence[float], ticks: int, random: Random
) -> list[float]:
    """Draw the start of each photograph: every arrangement with gaps is equally likely."""
    duration = ticks / TICKS_PER_SECOND
    free = duration - sum(seconds) - (len(seconds) + 1) * GAP_SECONDS
    if free < 0:
        raise SyntheticDataError(
            f"{plan.name} of {duration:.0f} s is too short for {len(seconds)} photographs with"
            f" gaps of {GAP_SECONDS:g} s. Raise --length, or lower synthetic.footage.max_photos."
        )
    offsets = sorted(random.uniform(0, free) for _ in seconds)
    before = [0.0, *accumulate(seconds)]
    return [
        offset + before[index] + (index + 1) * GAP_SECONDS for index, offset in enumerate(offsets)
    ]


class _Timeline:
    """Starts of all frames of consecutive clips, in ticks."""

    def __init__(self, clips: Sequence[Excerpt]) -> None:
        self._clips = clips
        self._starts = [0, *accumulate(clip.ticks for clip in clips)]

    def snap(self, ticks: int) -> int:
        """Return the start of the first frame at a time or later."""
        index = min(bisect_right(self._starts, ticks), len(self._clips)) - 1
        clip, start = self._clips[index], self._starts[index]
        origin = start - clip.footage.starts[clip.first_frame]
        frame = min(clip.footage.frame_at(ticks - origin), clip.end_frame)
        return self._starts[index + 1] if frame == clip.end_frame else (
            origin + clip.footage.starts[frame]
        )  # fmt: skip


def _draw_motion(random: Random) -> PhotoMotion:
    crops = random.sample((random.uniform(0.75, 0.9), 1.0), 2)
    pans = ((random.random(), random.random()), (random.random(), random.random()))
    return PhotoMotion(
        area=random.choice((1.0, 1 / 3)),
        position=(random.random(), random.random()),
        crops=(crops[0], crops[1]),
        pans=pans,
        is_faded=random.random() < 0.5,
    )
