"""Files, questions and settings in, the plan of each shard out: nothing is decoded or written here."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.questions.file import read_questions
from lit_hour.data.questions.record import SampleSpec, question_record
from lit_hour.errors import QuestionError

NUM_NAMED = 5  # files that an error lists before it only counts
_FRAME_SETTINGS = (
    "fps",
    "min_frames",
    "max_frames",
    "image_size",
    "on_decode_error",
    "keyframes_only",
)


@dataclass(frozen=True)
class ShardPlan:
    """One tar to make, and the fingerprint of everything that it is made from."""

    tar: Path
    index: Path
    folder: Path
    samples: tuple[SampleSpec, ...]
    video: VideoConfig
    config: dict[str, Any]
    fingerprint: str


def plan_shards(
    folder: Path, questions: Path, out: Path, video: VideoConfig, settings: PackConfig
) -> tuple[ShardPlan, ...]:
    """What goes into which shard: every subject of the question file, sorted by key.

    Raises:
        QuestionError: the question file cannot be used, or names files that are not in the folder.
    """
    subjects = _sorted_subjects(folder, questions)
    shard_settings = _shard_settings(video, settings)
    shards = []
    for number, start in enumerate(range(0, len(subjects), settings.videos_per_shard)):
        members = subjects[start : start + settings.videos_per_shard]
        shard = ShardPlan(
            tar=out / f"{number:06d}.tar",
            index=out / f"{number:06d}.json",
            folder=folder,
            samples=members,
            video=video,
            config=shard_settings,
            fingerprint=_fingerprint(folder, members, shard_settings),
        )
        shards.append(shard)
    return tuple(shards)


def _shard_settings(video: VideoConfig, settings: PackConfig) -> dict[str, Any]:
    """The settings that decide what is in a shard."""
    return {
        **{name: getattr(video, name) for name in _FRAME_SETTINGS},
        "jpeg_quality": settings.jpeg_quality,
        "videos_per_shard": settings.videos_per_shard,
    }


def _sorted_subjects(folder: Path, questions: Path) -> tuple[SampleSpec, ...]:
    subjects = sorted(read_questions(questions), key=lambda subject: (subject.key, subject.name))
    files = {file for subject in subjects for file in subject.files}
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        some = ", ".join(missing[:NUM_NAMED]) + (", ..." if len(missing) > NUM_NAMED else "")
        raise QuestionError(
            f"{questions} asks about {len(files)} files, and {len(missing)} of them are not in {folder}: {some}"
        )
    for one, other in itertools.pairwise(subjects):
        if one.key == other.key:
            both = f"the {one.modality} {one.name} and the {other.modality} {other.name}"
            raise QuestionError(
                f"{both} in {folder} get the same key {one.key!r}: rename one of them"
            )
    return tuple(subjects)


def _fingerprint(folder: Path, subjects: tuple[SampleSpec, ...], settings: dict[str, Any]) -> str:
    """SHA-256 over the settings, and over each subject's kind, questions, and names, sizes and times of change of its files."""
    parts: list[Any] = [settings]
    for subject in subjects:
        parts.append([subject.modality, subject.key, *map(question_record, subject.questions)])
        for file in subject.files:
            status = (folder / file).stat()
            parts.append([file, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
