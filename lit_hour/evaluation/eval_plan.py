"""Settings in, what is to be asked out: the questions of a benchmark by the video that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath

from lit_hour.config.schema import Config, EvaluationConfig
from lit_hour.errors import ConfigError, QuestionError, VideoError
from lit_hour.evaluation.benchmarks.custom import load_custom
from lit_hour.evaluation.benchmarks.video_mme import add_subtitles
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.load_benchmark import find_videos, load_benchmark
from lit_hour.evaluation.subtitles import read_subtitles
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.text.chat_template import format_question

NUM_NAMED = 3  # questions that an error about too many names


@dataclass(frozen=True)
class VideoQuestions:
    """A video and all questions about it; `file` is None where nothing is shown."""

    file: Path | None
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The published one, wherever the file lies."""
        return self.items[0].videos[0]

    def without(self, answered: Set[str]) -> VideoQuestions:
        """The questions that are open."""
        return replace(self, items=tuple(item for item in self.items if item.id not in answered))


@dataclass(frozen=True)
class EvalPlan:
    """What is to be asked.

    Attributes:
        questions: all of the files, asked or not.
        videos: those to be watched, in the order in which the files first name them.
        missing: question id -> why it cannot be asked.
        left_out: question id -> why nobody wanted it asked.
    """

    questions: QuestionSet
    videos: tuple[VideoQuestions, ...]
    missing: Mapping[str, str]
    excluded: Mapping[str, str]


def build_plan(config: Config) -> EvalPlan:
    """Read the question files and find the videos.

    Raises:
        ConfigError: no file or folder is named, or one that is not there.
        QuestionError: the files cannot be used, or more videos are missing than `evaluation.max_skipped_questions` allows.
    """
    settings = config.evaluation
    questions = _read_questions(settings, config)
    files: Mapping[str, Path] = {}
    missing: Mapping[str, str] = {}
    if config.video.frames != "none":
        found = find_videos(questions.items, _folders("evaluation.videos", settings.videos))
        files, missing = found.files, found.missing
    check_budget(missing, settings.max_skipped_questions)
    if settings.subtitles:
        questions = replace(questions, items=_with_subtitles(questions.items, files, config))
    videos = _group([item for item in questions.items if item.id not in missing], files)
    wanted = settings.limit or len(videos)
    reason = f"evaluation.limit={settings.limit} asks about the first videos only"
    left_out = {item.id: reason for video in videos[wanted:] for item in video.items}
    return EvalPlan(questions, videos[:wanted], missing, left_out)


def check_budget(skipped: Mapping[str, str], max_skipped: int) -> None:
    """Refuse to go on without too many questions.

    Raises:
        QuestionError: there are more than `max_skipped`.
    """
    if len(skipped) > max_skipped:
        named = "\n".join(
            f"  {identifier}: {reason}" for identifier, reason in list(skipped.items())[:NUM_NAMED]
        )
        raise QuestionError(
            f"{len(skipped)} questions cannot be asked, and evaluation.max_skipped_questions={max_skipped} allows {max_skipped}: with a"
            f" larger one the score is that of the others, and says so. The first:\n{named}"
        )


def _read_questions(settings: EvaluationConfig, config: Config) -> QuestionSet:
    patterns = _names("evaluation.questions", settings.questions)
    found = [(pattern, sorted(glob(pattern))) for pattern in patterns]
    if absent := [pattern for pattern, names in found if not names]:
        raise ConfigError(f"evaluation.questions: there is no file {absent[0]}")
    files = [Path(name) for _, names in found for name in names]
    if settings.benchmark != "custom":
        return load_benchmark(settings.benchmark, files, settings.max_invalid_records)
    return load_custom(
        files,
        partial(format_question, choice_answer=config.text.mcq_format),
        ", ".join(map(str, files)),
    )


def _folders(setting: str, value: str) -> list[Path]:
    folders = [Path(name) for name in _names(setting, value)]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{setting}: there is no folder {folder}")
    return folders


def _names(setting: str, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise ConfigError(
            f"{setting} is empty: say where they are, as {setting}=PATH or in the .yaml file"
        )
    return names


def _group(items: Sequence[Item], files: Mapping[str, Path]) -> tuple[VideoQuestions, ...]:
    """The questions by the file that they are about, or by the video that they would be about."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(str(files.get(item.id, item.videos[0])), []).append(item)
    return tuple(VideoQuestions(files.get(group[0].id), tuple(group)) for group in groups.values())


def _with_subtitles(
    items: Sequence[Item], files: Mapping[str, Path], config: Config
) -> tuple[Item, ...]:
    """The questions with what is said at the frames that are taken; whether a video can be read shows when it is watched.

    Raises:
        ConfigError: the benchmark has no subtitles, or there is no such folder.
        QuestionError: a file of subtitles cannot be used.
    """
    if config.evaluation.benchmark != "video_mme":
        raise ConfigError(
            f"evaluation.subtitles: {config.evaluation.benchmark} has no subtitles, Video-MME alone has"
        )
    (folder,) = _folders("evaluation.subtitles", config.evaluation.subtitles)
    timestamps: dict[Path, list[float]] = {}
    asked = []
    for item in items:
        file = files.get(item.id)
        subtitles = folder / PurePosixPath(item.videos[0]).with_suffix(".srt").name
        if file is None or not subtitles.is_file():
            asked.append(add_subtitles(item, (), ()))
            continue
        if file not in timestamps:
            timestamps[file] = _timestamps(file, config)
        asked.append(add_subtitles(item, read_subtitles(subtitles), timestamps[file]))
    return tuple(asked)


def _timestamps(file: Path, config: Config) -> list[float]:
    try:
        return SampledVideo(file, config.video).timestamps
    except VideoError:
        return []
