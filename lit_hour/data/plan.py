"""Videos, questions and settings in, the plan of each shard out: nothing is decoded or written here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.questions import question_record, read_questions
from lit_hour.errors import QuestionError
from lit_hour.types import Question

UNSAFE_IN_KEY = re.compile(r"[^A-Za-z0-9_/-]")  # a key ends at its first dot, by the rule of WebDataset
NUM_NAMED = 5  # files that an error lists before it only counts


@dataclass(frozen=True)
class VideoPlan:
    """One video to pack: its path inside the folder of videos, its key in the tar, its questions."""

    name: str
    key: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class ShardPlan:
    """One tar to make, and the fingerprint of everything that it is made from."""

    tar: Path
    index: Path
    folder: Path
    videos: tuple[VideoPlan, ...]
    video: VideoConfig
    settings: dict[str, Any]
    fingerprint: str


def plan_shards(videos: Path, questions: Path, out: Path, video: VideoConfig, settings: PackConfig) -> tuple[ShardPlan, ...]:
    """Which videos go into which shard: those that have questions, sorted by name.

    Raises:
        QuestionError: the question file cannot be used, or names videos that are not in the folder.
    """
    plans = _plan_videos(videos, questions)
    shard_settings = {
        **dataclasses.asdict(video),
        "jpeg_quality": settings.jpeg_quality,
        "videos_per_shard": settings.videos_per_shard,
    }
    shards = []
    for number, start in enumerate(range(0, len(plans), settings.videos_per_shard)):
        members = plans[start : start + settings.videos_per_shard]
        shard = ShardPlan(
            tar=out / f"{number:06d}.tar",
            index=out / f"{number:06d}.json",
            folder=videos,
            videos=members,
            video=video,
            settings=shard_settings,
            fingerprint=_fingerprint(videos, members, shard_settings),
        )
        shards.append(shard)
    return tuple(shards)


def _plan_videos(folder: Path, questions: Path) -> tuple[VideoPlan, ...]:
    questions_of_video = read_questions(questions)
    missing = sorted(name for name in questions_of_video if not (folder / name).is_file())
    if missing:
        some = ", ".join(missing[:NUM_NAMED]) + (", ..." if len(missing) > NUM_NAMED else "")
        raise QuestionError(
            f"{questions} asks about {len(questions_of_video)} videos, and {len(missing)} of them are not in {folder}: {some}"
        )
    name_of_key: dict[str, str] = {}
    for name in sorted(questions_of_video):
        key = UNSAFE_IN_KEY.sub("_", str(PurePosixPath(name).with_suffix("")))
        if key in name_of_key:
            raise QuestionError(f"{name_of_key[key]} and {name} in {folder} get the same key {key!r}: rename one of them")
        name_of_key[key] = name
    return tuple(VideoPlan(name, key, tuple(questions_of_video[name])) for key, name in name_of_key.items())


def _fingerprint(folder: Path, videos: tuple[VideoPlan, ...], settings: dict[str, Any]) -> str:
    """SHA-256 over the settings, and over each video's name, size, time of change and questions."""
    parts: list[Any] = [settings]
    for video in videos:
        status = (folder / video.name).stat()
        parts.append([video.name, status.st_size, status.st_mtime_ns, *map(question_record, video.questions)])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
