"""Subtitles of the videos to be packed: files beside them, which become part of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lit_hour.data.questions.record import SampleSpec
from lit_hour.errors import QuestionError
from lit_hour.media.subtitles import cut_subtitles, find_subtitle_file, parse_subtitles


def find_sample_subtitles(folder: Path, samples: Sequence[SampleSpec]) -> tuple[SampleSpec, ...]:
    """Return the samples with the names of the subtitle files beside their videos."""
    found: dict[str, str] = {}
    for sample in samples:
        if sample.modality == "video" and sample.files[0] not in found:
            file = find_subtitle_file(folder / sample.files[0])
            name = "" if file is None else str(PurePosixPath(sample.files[0]).with_name(file.name))
            found[sample.files[0]] = name
    return tuple(
        replace(sample, subtitle_file=found[sample.files[0]])
        if sample.modality == "video"
        else sample
        for sample in samples
    )


def load_sample_subtitles(folder: Path, sample: SampleSpec) -> tuple[SampleSpec, tuple[str, ...]]:
    """Return a sample with its subtitles, and why the file or some of its cues cannot be used."""
    if not sample.subtitle_file:
        return sample, ()
    try:
        content = parse_subtitles(folder / sample.subtitle_file)
    except QuestionError as error:
        return sample, (str(error),)
    subtitles = cut_subtitles(content.subtitles, sample.clip_seconds)
    return replace(sample, subtitles=subtitles), content.invalid
