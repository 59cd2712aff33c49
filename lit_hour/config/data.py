"""The settings of the data: where samples come from, which make a step, how they are read, and how features are stored."""

# ruff: noqa: RUF009  (`setting` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Literal

from lit_hour.config.fields import setting


@dataclass(frozen=True)
class SourceConfig:
    """One named source of samples."""

    shards: str = setting(MISSING, "folder of packed shards, or the https:// or s3:// URL of one")
    weight: float = setting(
        1.0,
        "passes over this source in one pass over all; 0.5 takes half of it each time, 0 leaves it out",
        at_least=0,
    )
    start: float = setting(
        0.0,
        "share of this source that comes last: those that a stage before has taken",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True)
class DataConfig:
    """Which samples make a step, and how they are read."""

    sources: dict[str, SourceConfig] = setting(
        {}, "named training sources: data.sources.NAME.shards=FOLDER"
    )
    validation_sources: dict[str, SourceConfig] = setting(
        {}, "named validation sources; their weights do not count"
    )
    questions_per_sample: int = setting(
        5,
        "questions about one video or picture in one multi-turn sample",
        unit="questions",
        at_least=1,
    )
    validation_questions: int = setting(
        30,
        "questions asked about each validation video, spread over those it has",
        unit="questions",
        at_least=1,
    )
    samples_per_step: int = setting(
        128, "samples in an optimizer step, over all ranks", unit="samples", at_least=1
    )
    samples_per_batch: int = setting(
        1, "samples that a rank holds at once", unit="samples", at_least=1
    )
    shuffle_shards: int = setting(
        4, "neighbouring shards whose samples are shuffled together", unit="shards", at_least=1
    )
    balance_steps: int = setting(
        100,
        "neighbouring steps that exchange samples, so that those of one step take about equal work and no rank waits for the"
        " one with the longest video; 1 for none",
        unit="steps",
        at_least=1,
    )
    num_workers: int = setting(
        2, "processes that read ahead, for each rank", unit="processes", at_least=0
    )
    timeout_seconds: float = setting(
        1200.0,
        "how long a rank waits for a process that reads ahead until the run stops and says what that reads; 0 for ever, and"
        " above 1800 the other ranks give up before",
        unit="s",
        at_least=0,
    )
    max_skipped: int = setting(
        0,
        "videos and pictures that a rank may fail to read before the run stops; each is listed",
        unit="videos",
        at_least=0,
    )
    on_change: Literal["error", "use"] = setting(
        "error",
        "data that have changed since the checkpoint: refuse them, or go on with them and say so",
    )
    cache_folder: str = setting(
        "shards/cache", "where shards from a URL are kept; all processes of a machine share it"
    )
    cache_gigabytes: float = setting(
        100.0, "size that the cache may have; what was used least recently makes room", above=0
    )
    s3_endpoint: str = setting(
        "https://s3.amazonaws.com", "s3://bucket/path is fetched from here, as ENDPOINT/bucket/path"
    )


@dataclass(frozen=True)
class EncodeConfig:
    """How videos become features: what the vision encoder makes of them, once for all epochs."""

    precision: Literal["bf16", "int8"] = setting(
        "bf16",
        "how tokens are stored: in bf16, or in half the size as 8-bit numbers with a scale for each token",
    )
