"""Write shards of features that are spliced from stored frames: `write_spliced_set`.

A video has the story that `lit-hour synthesize --footage` draws for its seed and duration. The
frame of each second is the nearest stored frame of the footage, or one of a showing of the
photograph. So thousands of hours cost no decoding and no encoding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.data.features.format import (
    FEATURES_SUFFIX,
    FeatureMetadata,
    StoredTokens,
    to_safetensors,
)
from lit_hour.data.packing.decode_worker import SampleSummary
from lit_hour.data.packing.pack import summarize_shards
from lit_hour.data.packing.shard_plan import frame_config
from lit_hour.data.packing.shard_writer import END_OF_ARCHIVE, publish_shard, sample_json
from lit_hour.data.questions.record import SampleSpec
from lit_hour.data.shards.shard_index import TOTALS_NAME, IndexEntry, read_index, write_json
from lit_hour.data.shards.tar import write_member
from lit_hour.io.atomic import temp_path
from lit_hour.media.sample_times import sample_timestamps
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage
from lit_hour.synthetic.footage.footage_story import FootageStory, generate_footage_story
from lit_hour.synthetic.footage.photo_library import PhotoLibrary
from lit_hour.synthetic.footage.photo_questions import generate_photo_questions
from lit_hour.synthetic.video_plan import VideoPlan
from lit_hour.text.chat_template import count_text_bytes
from lit_hour.types import Question
from tests.benchmarks.small_photos.stored_frames import FOOTAGE_FPS, StoredFrames

VIDEOS_PER_SHARD = 64


@dataclass(frozen=True)
class SplicedSet:
    """A set of videos.

    Attributes:
        name: of its folder.
        num_videos: number of stories.
        seconds: shortest and longest duration.
        max_photos: in a video.
        formats: of the questions.
        tasks: of the questions; all if empty.
        per_task: questions per task and format.
    """

    name: str
    num_videos: int
    seconds: tuple[float, float]
    max_photos: int = 4
    formats: tuple[str, ...] = ("open_ended", "multiple_choice")
    tasks: tuple[str, ...] = ()
    per_task: int = 2


@dataclass(frozen=True)
class Material:
    """Material of spliced videos: footage and photographs of one split, and their frames."""

    clips: Sequence[Footage]
    library: PhotoLibrary
    frames: StoredFrames


def write_spliced_set(
    out: Path, wanted: SplicedSet, material: Material, config: Config, metadata: FeatureMetadata
) -> None:
    """Write the shards of a set, unless they are complete.

    Args:
        out: folder of the shards.
        wanted: sizes and questions.
        material: frames to splice.
        config: settings of the run.
        metadata: of the encoder of the frames.
    """
    if (out / TOTALS_NAME).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    indexes = []
    for first in range(0, wanted.num_videos, VIDEOS_PER_SHARD):
        tar = out / f"{first // VIDEOS_PER_SHARD:06d}.tar"
        temp = temp_path(tar)
        last = min(first + VIDEOS_PER_SHARD, wanted.num_videos)
        with temp.open("wb") as stream:
            entries, offset = [], 0
            for number in range(first, last):
                story = draw_story(wanted, number, material, config)
                sample = SampleSpec(
                    "video", (f"{wanted.name}_{number:06d}.mp4",), 0, _questions(story, wanted)
                )
                tokens, seconds = splice(story, material, config)
                summary = SampleSummary(story.duration_seconds, tuple(seconds))
                content = to_safetensors(StoredTokens(tokens, None), metadata)
                num_bytes = write_member(stream, f"{sample.key}.{FEATURES_SUFFIX}", content)
                num_bytes += write_member(
                    stream, f"{sample.key}.json", [sample_json(sample, summary)]
                )
                texts = tuple(map(count_text_bytes, sample.questions))
                entries.append(
                    IndexEntry(
                        tar.name,
                        sample.key,
                        "video",
                        offset,
                        num_bytes,
                        story.duration_seconds,
                        len(tokens),
                        len(sample.questions),
                        text_bytes=texts,
                    )
                )
                offset += num_bytes
            stream.write(END_OF_ARCHIVE)
        publish_shard(
            temp, tar, frame_config(config.video), repr(wanted), tuple(entries), (), metadata
        )
        indexes.append(read_index(tar.with_suffix(".json")))
    write_json(out / TOTALS_NAME, asdict(summarize_shards(indexes)))


def draw_story(wanted: SplicedSet, number: int, material: Material, config: Config) -> FootageStory:
    """Draw the story of a video."""
    random = Random(f"{wanted.name} {number}")
    duration = float(round(random.uniform(*wanted.seconds)))
    plan = VideoPlan(f"{wanted.name}_{number:06d}", random.getrandbits(48), duration)
    max_photos = min(wanted.max_photos, int((duration - 3) // 9))  # 6 s and a gap of 3 s each
    settings = replace(config.synthetic.footage, max_photos=max_photos)
    return generate_footage_story(plan, material.clips, material.library, settings)


def splice(story: FootageStory, material: Material, config: Config) -> tuple[Tensor, list[float]]:
    """Return the tokens `(frames, tokens, vision_dim)` of a story's sampled frames, and times."""
    random = Random(f"showings of story {story.seed}")
    video = config.video
    seconds = sample_timestamps(
        story.duration_seconds, video.fps, video.min_frames, video.max_frames
    )
    clip_starts = [0, *accumulate(clip.ticks for clip in story.clips)]
    number_of_clip = {id(clip): number for number, clip in enumerate(material.clips)}
    frames = []
    for time in seconds:
        ticks = time * TICKS_PER_SECOND
        index = min(bisect_right(clip_starts, ticks), len(story.clips)) - 1
        excerpt = story.clips[index]
        source = excerpt.footage.starts[excerpt.first_frame] + ticks - clip_starts[index]
        stored = material.frames.footage[number_of_clip[id(excerpt.footage)]]
        frames.append(stored[min(round(source / TICKS_PER_SECOND * FOOTAGE_FPS), len(stored) - 1)])
    for photo in story.photos:
        showing = random.choice(material.frames.showings[str(photo.path)])
        start, end = photo.interval
        covered = [index for index, time in enumerate(seconds) if start <= time < end]
        for count, index in enumerate(covered):
            frames[index] = showing[count % len(showing)]
    return torch.stack(frames), list(seconds)


def _questions(story: FootageStory, wanted: SplicedSet) -> tuple[Question, ...]:
    questions = generate_photo_questions(story, "video", wanted.tasks, wanted.per_task)
    chosen = [question for question in questions if question.format in wanted.formats]
    return tuple(Random(story.seed).sample(chosen, len(chosen)))
