"""Assign the samples of a question file to shards; nothing is decoded or written here."""

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
from lit_hour.errors import QuestionError, list_first

FRAME_KEYS = (
    "fps",
    "min_frames",
    "max_frames",
    "image_size",
    "on_decode_error",
    "keyframes_only",
)  # settings of `video` that determine the stored frames
PACK_KEYS = ("jpeg_quality", "videos_per_shard")


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written.

    Attributes:
        folder: of the files.
        config: settings that determine the content.
        fingerprint: SHA-256 of everything that the shard is made from.
    """

    tar: Path
    index: Path
    folder: Path
    samples: tuple[SampleSpec, ...]
    video: VideoConfig
    config: dict[str, Any]
    fingerprint: str


def plan_shards(
    folder: Path, questions: Path, out: Path, video: VideoConfig, config: PackConfig
) -> tuple[ShardPlan, ...]:
    """Plan the shards of all samples of a question file, sorted by key.

    Raises:
        QuestionError: the question file is invalid, or names files that are not in the folder.
    """
    samples = _sorted_samples(folder, questions)
    stored_config = {
        **{key: getattr(video, key) for key in FRAME_KEYS},
        **{key: getattr(config, key) for key in PACK_KEYS},
    }
    plans = []
    for number, start in enumerate(range(0, len(samples), config.videos_per_shard)):
        members = samples[start : start + config.videos_per_shard]
        plans.append(
            ShardPlan(
                tar=out / f"{number:06d}.tar",
                index=out / f"{number:06d}.json",
                folder=folder,
                samples=members,
                video=video,
                config=stored_config,
                fingerprint=_fingerprint(folder, members, stored_config),
            )
        )
    return tuple(plans)


def _sorted_samples(folder: Path, questions: Path) -> tuple[SampleSpec, ...]:
    samples = sorted(read_questions(questions), key=lambda sample: (sample.key, sample.name))
    files = {file for sample in samples for file in sample.files}
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        raise QuestionError(
            f"{questions} names {len(files)} files, and {len(missing)} of them are not in {folder}:"
            f" {list_first(missing)}."
        )
    for one, other in itertools.pairwise(samples):
        if one.key == other.key:
            raise QuestionError(
                f"The {one.modality} {one.name} and the {other.modality} {other.name} in {folder} "
                "get"
                f" the same key {one.key!r}. Rename one of them."
            )
    return tuple(samples)


def _fingerprint(folder: Path, samples: tuple[SampleSpec, ...], config: dict[str, Any]) -> str:
    """Hash the settings, the questions, and name, size and modification time of each file."""
    parts: list[Any] = [config]
    for sample in samples:
        parts.append([sample.modality, sample.key, *map(question_record, sample.questions)])
        for file in sample.files:
            status = (folder / file).stat()
            parts.append([file, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
