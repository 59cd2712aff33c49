"""The settings of `python -m lit_hour evaluate`, one group of the schema: which questions, and how the model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class EvaluationConfig:
    """Published question files and videos -> answers of a run, and their score."""

    benchmark: Literal[
        "custom", "video_mme", "lvbench", "longvideobench", "mlvu", "tempcompass", "egoschema"
    ] = field("custom", "whose question files these are; custom: as pack takes them")
    questions: str = field("", "its question files, * for any name, with commas between")
    videos: str = field(
        "", "folders in which videos lie, with commas between; the first that has a video wins"
    )
    subtitles: str = field(
        "", "Video-MME: folder of .srt files, named as the videos; empty: asked without subtitles"
    )
    scoring: Literal["generate", "loglikelihood"] = field(
        "generate",
        "generate: read the option out of what the model says; loglikelihood: the option that it would most likely name."
        " Questions without options are generated in any case",
    )
    batch_size: int = field(
        1,
        "questions about one video that are answered side by side: faster, and may change the last digits",
        ge=1,
    )
    limit: int = field(
        0, "ask only about the first so many videos, for a look; 0: all", unit="videos", ge=0
    )
    max_invalid_records: int = field(
        0, "records of the question files that may be unusable", unit="records", ge=0
    )
    max_skipped_questions: int = field(
        0,
        "questions that may go unasked because their video is missing or damaged, or they do not fit in text.max_tokens; each"
        " is listed",
        unit="questions",
        ge=0,
    )
