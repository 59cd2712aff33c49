"""Plan which samples go into which shard (`plan_shards`), without decoding anything."""

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

NUM_NAMED = 5  # missing files listed in an error
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
    """Plan of one shard, and the fingerprint of all its inputs."""

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
    """Assign every sample of the question file to a shard, sorted by key.

    Raises:
        QuestionError: the question file is invalid, or refers to missing files.
    """
    samples = _sorted_samples(folder, questions)
    shard_settings = _shard_settings(video, settings)
    shards = []
    for number, start in enumerate(range(0, len(samples), settings.videos_per_shard)):
        members = samples[start : start + settings.videos_per_shard]
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
    """Return the settings that the content of a shard depends on."""
    return {
        **{name: getattr(video, name) for name in _FRAME_SETTINGS},
        "jpeg_quality": settings.jpeg_quality,
        "videos_per_shard": settings.videos_per_shard,
    }


def _sorted_samples(folder: Path, questions: Path) -> tuple[SampleSpec, ...]:
    samples = sorted(read_questions(questions), key=lambda sample: (sample.key, sample.name))
    files = {file for sample in samples for file in sample.files}
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        examples = ", ".join(missing[:NUM_NAMED]) + (", ..." if len(missing) > NUM_NAMED else "")
        raise QuestionError(
            f"{questions} refers to {len(files)} files, but {len(missing)} of them are not in"
            f" {folder}: {examples}"
        )
    for first, second in itertools.pairwise(samples):
        if first.key == second.key:
            both = f"The {first.modality} {first.name} and the {second.modality} {second.name}"
            raise QuestionError(
                f"{both} in {folder} have the same key {first.key!r}. Rename one of them"
            )
    return tuple(samples)


def _fingerprint(folder: Path, samples: tuple[SampleSpec, ...], settings: dict[str, Any]) -> str:
    """Hash the settings and each sample's modality, questions, and file names, sizes and mtimes."""
    parts: list[Any] = [settings]
    for sample in samples:
        parts.append([sample.modality, sample.key, *map(question_record, sample.questions)])
        for file in sample.files:
            status = (folder / file).stat()
            parts.append([file, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
