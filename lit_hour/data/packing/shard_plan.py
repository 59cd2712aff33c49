"""Assign the samples of a question file to shards, and recognize files that have not changed.

Nothing is decoded or written here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.sample_subtitles import find_sample_subtitles
from lit_hour.data.questions.file import read_question_file
from lit_hour.data.questions.record import SampleSpec, question_record
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    UNRECORDED_SAMPLING,
    FileStamp,
    SkippedSample,
    read_index,
)
from lit_hour.errors import QuestionError, list_first
from lit_hour.io.hashing import hash_path
from lit_hour.text.grounding import with_grounding_questions

FRAME_KEYS = (
    "fps",
    "min_frames",
    "max_frames",
    "image_size",
    "on_decode_error",
    "keyframes_only",
)  # settings of `video` that determine the stored frames
PACK_KEYS = ("jpeg_quality", "videos_per_shard")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written.

    Attributes:
        folder: of the files.
        config: settings that determine the content.
        fingerprint: SHA-256 of everything that the shard is made from.
        stamps: of the files that an earlier shard was made from, and that are still the same.
        skipped: records of the question file that cannot be used; all belong to the first shard.
    """

    tar: Path
    index: Path
    folder: Path
    samples: tuple[SampleSpec, ...]
    video: VideoConfig
    config: dict[str, Any]
    fingerprint: str
    stamps: dict[str, FileStamp]
    skipped: tuple[SkippedSample, ...] = ()

    def stamp_files(self) -> dict[str, FileStamp]:
        """Return the stamp of each file, and read those that have none yet."""
        names = [file for sample in self.samples for file in _file_names(sample)]
        with ThreadPoolExecutor() as executor:
            new = executor.map(
                lambda name: self.stamps.get(name) or _stamp(self.folder / name), names
            )
            return {name: stamp for name, stamp in zip(names, new, strict=True) if stamp}


def plan_shards(
    folder: Path, questions: Path, out: Path, video: VideoConfig, config: PackConfig
) -> tuple[ShardPlan, ...]:
    """Plan the shards of all samples of a question file, sorted by key.

    A file that was copied or moved since `out` was made from it counts as unchanged, although its
    modification time is another one, if its content is the same.

    Raises:
        QuestionError: the question file has more invalid records than `pack.max_bad_samples`, or
            names files that are not in the folder.
        ShardError: `out` has the index of a shard that cannot be read.
    """
    groups, skipped = group_samples(questions, config)
    check_files_exist(folder, questions, groups)
    stamps = _find_unchanged(folder, out)
    plans = [
        plan_shard(
            folder, out, number, find_sample_subtitles(folder, samples), video, config, stamps
        )
        for number, samples in enumerate(groups)
    ]
    return (replace(plans[0], skipped=skipped), *plans[1:])


def check_files_exist(
    folder: Path, questions: Path, groups: Sequence[Sequence[SampleSpec]]
) -> None:
    """Check that the files of all samples are in their folder.

    Raises:
        QuestionError: some are not.
    """
    files = {file for samples in groups for sample in samples for file in sample.files}
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        raise QuestionError(
            f"{questions} names {len(files)} files, and {len(missing)} of them are not in {folder}:"
            f" {list_first(missing)}."
        )


def plan_shard(
    folder: Path,
    out: Path,
    number: int,
    samples: tuple[SampleSpec, ...],
    video: VideoConfig,
    config: PackConfig,
    stamps: Mapping[str, FileStamp],
) -> ShardPlan:
    """Plan the shard of a group of samples with existing files; see `plan_shards`."""
    stored_config = {
        **frame_config(video),
        **{key: getattr(config, key) for key in PACK_KEYS},
    }
    files = [file for sample in samples for file in _file_names(sample)]
    return ShardPlan(
        tar=out / f"{number:06d}.tar",
        index=out / f"{number:06d}.json",
        folder=folder,
        samples=samples,
        video=video,
        config=stored_config,
        fingerprint=_fingerprint(folder, samples, stored_config, stamps),
        stamps={file: stamps[file] for file in files if file in stamps},
    )


def frame_config(video: VideoConfig) -> dict[str, Any]:
    """Return the settings of `video` that determine stored frames, as an index has them."""
    return {
        **({} if video.sampling == UNRECORDED_SAMPLING else {"sampling": video.sampling}),
        **{key: getattr(video, key) for key in FRAME_KEYS},
    }


def group_samples(
    questions: Path, config: PackConfig
) -> tuple[list[tuple[SampleSpec, ...]], tuple[SkippedSample, ...]]:
    """Sort the samples of a question file by key, and return an equal part for each shard.

    Returns:
        The samples of each shard, and the records that cannot be used.

    Raises:
        QuestionError: more records than `pack.max_bad_samples` are invalid.
    """
    content = read_question_file(questions, config.max_bad_samples)
    samples = sorted(
        (_with_grounding(sample, config.grounding_share) for sample in content.samples),
        key=lambda sample: sample.key,
    )
    size = config.videos_per_shard
    groups = [tuple(samples[start : start + size]) for start in range(0, len(samples), size)]
    skipped = tuple(SkippedSample(record.location, record.reason) for record in content.invalid)
    return groups, skipped


def _with_grounding(sample: SampleSpec, share: float) -> SampleSpec:
    """Replace a share of the questions with evidence by questions about its times."""
    if not share:
        return sample
    return replace(sample, questions=tuple(with_grounding_questions(sample.questions, share)))


def _find_unchanged(folder: Path, out: Path) -> dict[str, FileStamp]:
    """Return the stamps in the indexes of `out` of files that still have the same content.

    Their `checked_mtime_ns` is the present one.
    """
    stamps: dict[str, FileStamp] = {}
    for path in sorted(out.glob(SHARD_PATTERN + ".json")):
        stamps |= read_index(path).files
    unchecked = {}
    for name, stamp in list(stamps.items()):
        try:
            status = (folder / name).stat()
        except OSError:  # no longer a file of this set
            del stamps[name]
            continue
        if status.st_size != stamp.num_bytes:
            del stamps[name]
        elif status.st_mtime_ns not in (stamp.mtime_ns, stamp.checked_mtime_ns):
            unchecked[name] = status.st_mtime_ns
    if unchecked:
        log.info("%s: comparing %d files that have a new time", folder, len(unchecked))
    with ThreadPoolExecutor() as executor:
        digests = executor.map(lambda name: hash_path(folder / name), unchecked)
        for (name, mtime_ns), digest in zip(unchecked.items(), digests, strict=True):
            if digest == stamps[name].sha256:
                stamps[name] = replace(stamps[name], checked_mtime_ns=mtime_ns)
            else:
                del stamps[name]
    return stamps


def _stamp(path: Path) -> FileStamp | None:
    """Read a file and return its stamp; None if it cannot be read, or changes meanwhile."""
    try:
        before, digest, after = path.stat(), hash_path(path), path.stat()
    except OSError:
        return None
    mtime_ns = before.st_mtime_ns
    if mtime_ns != after.st_mtime_ns:
        return None
    return FileStamp(before.st_size, mtime_ns, digest, checked_mtime_ns=mtime_ns)


def _file_names(sample: SampleSpec) -> tuple[str, ...]:
    """Return the names of all files that a sample is made from."""
    return (*sample.files, sample.subtitle_file) if sample.subtitle_file else sample.files


def _fingerprint(
    folder: Path,
    samples: tuple[SampleSpec, ...],
    config: dict[str, Any],
    stamps: Mapping[str, FileStamp],
) -> str:
    """Hash the settings, the questions, and name, size and modification time of each file.

    The time is that of the file's stamp, if it has one.
    """
    parts: list[Any] = [config]
    for sample in samples:
        parts.append([sample.modality, sample.key, *map(question_record, sample.questions)])
        if sample.clip_seconds is not None or sample.system_prompt:
            parts.append([sample.clip_seconds, sample.system_prompt])
        for file in _file_names(sample):
            status = (folder / file).stat()
            mtime_ns = stamps[file].mtime_ns if file in stamps else status.st_mtime_ns
            parts.append([file, status.st_size, mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
