"""The settings of `python -m lit_hour evaluate`, one group of the schema: which questions, and how the model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import setting


@dataclass(frozen=True)
class EvaluationConfig:
    """Published question files and videos -> answers of a run, and their score."""

    benchmark: Literal[
        "own", "video_mme", "lvbench", "longvideobench", "mlvu", "tempcompass", "egoschema"
    ] = setting("own", "whose question files these are; own: as pack takes them")
    questions: str = setting("", "its question files, * for any name, with commas between")
    videos: str = setting(
        "", "folders in which videos lie, with commas between; the first that has a video wins"
    )
    subtitles: str = setting(
        "", "Video-MME: folder of .srt files, named as the videos; empty: asked without subtitles"
    )
    scoring: Literal["generate", "likelihood"] = setting(
        "generate",
        "generate: read the option out of what the model says; likelihood: the option that it would most likely name."
        " Questions without options are generated in any case",
    )
    questions_at_once: int = setting(
        1,
        "questions about one video that are answered side by side: faster, and may change the last digits",
        at_least=1,
    )
    num_videos: int = setting(
        0, "ask only about the first so many videos, for a look; 0: all", unit="videos", at_least=0
    )
    max_refused: int = setting(
        0, "records of the question files that may be unusable", unit="records", at_least=0
    )
    max_skipped: int = setting(
        0,
        "questions that may go unasked because their video is missing or damaged, or they do not fit in text.max_tokens; each"
        " is listed",
        unit="questions",
        at_least=0,
    )
