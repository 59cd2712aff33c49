"""Plan an evaluation: the questions of a benchmark, grouped by video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath

from lit_hour.config.evaluation import EvaluationConfig
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, QuestionError, VideoError, list_first
from lit_hour.evaluation.benchmarks import longvideobench, video_mme
from lit_hour.evaluation.benchmarks.custom import load_custom
from lit_hour.evaluation.generate import shown_frames
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.load_benchmark import find_videos, load_benchmark
from lit_hour.media.subtitles import read_subtitles
from lit_hour.media.video_reader import SampledVideo
from lit_hour.text.chat_template import format_question

LONGVIDEOBENCH = ("longvideobench", "longvideobench_test")


@dataclass(frozen=True)
class VideoQuestions:
    """A video and the questions about it; `file` is None if no frames are shown."""

    file: Path | None
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The published path of the video, which does not depend on the folder of videos."""
        return self.items[0].video_name

    @property
    def clip_seconds(self) -> tuple[float, float] | None:
        """The part of the video that is shown; None for all of it."""
        return self.items[0].clip_seconds

    def without(self, answered: Set[str]) -> VideoQuestions:
        """Return the same video with the unanswered questions; `answered` has ids."""
        return replace(self, items=tuple(item for item in self.items if item.id not in answered))


@dataclass(frozen=True)
class EvalPlan:
    """The questions to evaluate.

    Attributes:
        questions: all of the files.
        videos: videos to read with their questions, in the order of the files.
        missing: question id -> why there is no video.
        excluded: question id -> why the settings exclude the question.
    """

    questions: QuestionSet
    videos: tuple[VideoQuestions, ...]
    missing: Mapping[str, str]
    excluded: Mapping[str, str]


def build_plan(config: Config) -> EvalPlan:
    """Load the question files and find the videos.

    Raises:
        ConfigError: no file or folder is given, or one does not exist.
        QuestionError: a file cannot be used, or more videos are missing than
            `evaluation.max_skipped_questions` allows.
    """
    settings = config.evaluation
    questions = _load_questions(config)
    files: Mapping[str, Path] = {}
    missing: Mapping[str, str] = {}
    if config.video.frames != "none":
        found = find_videos(questions.items, _folders("evaluation.videos", settings.videos))
        files, missing = found.files, found.missing
    check_skip_budget(missing, settings.max_skipped_questions)
    if settings.subtitles:
        questions = replace(questions, items=_subtitled(questions.items, files, config))
    videos = _group_by_video([item for item in questions.items if item.id not in missing], files)
    limit = settings.limit or len(videos)
    reason = f"evaluation.limit={settings.limit} takes the questions about the first videos only"
    excluded = {item.id: reason for video in videos[limit:] for item in video.items}
    return EvalPlan(questions, videos[:limit], missing, excluded)


def check_skip_budget(skipped: Mapping[str, str], max_skipped: int) -> None:
    """Stop if more questions are skipped than the settings allow.

    Raises:
        QuestionError: there are more than `max_skipped`.
    """
    if len(skipped) > max_skipped:
        listed = list_first([f"  {key}: {reason}" for key, reason in skipped.items()], "\n")
        raise QuestionError(
            f"{len(skipped)} questions cannot be evaluated;"
            f" evaluation.max_skipped_questions={max_skipped} are allowed. With a larger value the"
            f" score is on the other questions, and the report says so. The first:\n{listed}"
        )


def _load_questions(config: Config) -> QuestionSet:
    settings = config.evaluation
    files: list[Path] = []
    for pattern in _paths("evaluation.questions", settings.questions):
        matches = sorted(glob(pattern))
        if not matches:
            raise ConfigError(f"evaluation.questions: there is no file {pattern}.")
        files += map(Path, matches)
    if settings.benchmark != "custom":
        loaded = load_benchmark(settings.benchmark, files, settings.max_invalid_records)
        _check_unused(settings, loaded.items)
        items = [
            replace(item, rule=settings.mlvu_rule) if item.rule == "mlvu" else item
            for item in loaded.items
        ]
        return replace(loaded, items=tuple(items))
    format_prompt = partial(format_question, mcq_format=config.text.mcq_format)
    title = ", ".join(map(str, files))
    loaded = load_custom(files, format_prompt, title, settings.max_invalid_records)
    _check_unused(settings, loaded.items)
    return loaded


def _check_unused(settings: EvaluationConfig, items: Sequence[Item]) -> None:
    """Refuse settings that no question uses."""
    if settings.mlvu_rule != EvaluationConfig().mlvu_rule and all(
        item.rule != "mlvu" for item in items
    ):
        raise ConfigError(
            f"evaluation.mlvu_rule={settings.mlvu_rule}, but no question of"
            f" {settings.benchmark} is scored by MLVU's rule. Leave it out."
        )
    if settings.judge and not any(item.judge_prompt for item in items):
        raise ConfigError(
            f"evaluation.judge={settings.judge}, but rules score all questions of"
            f" {settings.benchmark}. Leave it out."
        )


def _folders(setting: str, value: str) -> list[Path]:
    folders = [Path(name) for name in _paths(setting, value)]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{setting}: there is no folder {folder}.")
    return folders


def _paths(setting: str, value: str) -> list[str]:
    """Split the value of a setting at its commas."""
    paths = [path.strip() for path in value.split(",") if path.strip()]
    if not paths:
        raise ConfigError(f"{setting} is empty. Set {setting}=PATH, or set it in the YAML file.")
    return paths


def _group_by_video(items: Sequence[Item], files: Mapping[str, Path]) -> tuple[VideoQuestions, ...]:
    """Group questions by video file, or by the video's name if no frames are shown."""
    groups: dict[tuple[str, tuple[float, float] | None], list[Item]] = {}
    for item in items:
        name = str(files.get(item.id, item.videos[0]))
        groups.setdefault((name, item.clip_seconds), []).append(item)
    return tuple(VideoQuestions(files.get(group[0].id), tuple(group)) for group in groups.values())


def _subtitled(
    items: Sequence[Item], files: Mapping[str, Path], config: Config
) -> tuple[Item, ...]:
    """Return the questions with the published subtitles of their videos.

    A video that cannot be read is reported later, when its frames are decoded.

    Raises:
        ConfigError: the benchmark has no subtitles, the folder does not exist, or the frames
            between which they stand are not known before the model runs.
        QuestionError: a subtitle file cannot be used.
    """
    settings, forgetting = config.evaluation, config.model.memaug.temporal_forgetting
    if settings.benchmark not in ("video_mme", *LONGVIDEOBENCH):
        raise ConfigError(
            f"evaluation.subtitles: {settings.benchmark} has no subtitles; only Video-MME and"
            " LongVideoBench have."
        )
    if settings.benchmark in LONGVIDEOBENCH and forgetting not in ("uniform", "none"):
        raise ConfigError(
            "evaluation.subtitles of LongVideoBench stand between frames that are known before the"
            f" model runs. Set model.memaug.temporal_forgetting=uniform, not {forgetting}."
        )
    (folder,) = _folders("evaluation.subtitles", settings.subtitles)
    timestamps: dict[Path, list[float]] = {}
    subtitled = []
    for item in items:
        file, subtitle_file = files.get(item.id), folder / PurePosixPath(item.subtitle_file).name
        if file is None or not item.subtitle_file or not subtitle_file.is_file():
            subtitled.append(_with_group(item, "none published"))
            continue
        if settings.benchmark in LONGVIDEOBENCH:
            between = longvideobench.read_subtitles(
                subtitle_file, item, settings.max_invalid_records
            )
            subtitled.append(_with_group(replace(item, subtitles=between), "with"))
            continue
        if file not in timestamps:
            timestamps[file] = _frame_timestamps(file, config)
        subtitles = read_subtitles(subtitle_file, settings.max_invalid_records)
        item = video_mme.add_subtitles(item, subtitles, timestamps[file])
        subtitled.append(_with_group(item, "with" if subtitles else "none published"))
    return tuple(subtitled)


def _with_group(item: Item, subtitles: str) -> Item:
    return replace(item, groups={**item.groups, "subtitles": (subtitles,)})


def _frame_timestamps(file: Path, config: Config) -> list[float]:
    try:
        return SampledVideo(file, shown_frames(config.video)).timestamps
    except VideoError:
        return []
