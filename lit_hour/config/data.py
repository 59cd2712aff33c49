"""The settings of the data: where samples come from, which make a step, how they are read, and how features are stored."""

# ruff: noqa: RUF009  (`field` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

import os
from dataclasses import MISSING, dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class SourceConfig:
    """One named source of samples."""

    shards: str = field(MISSING, "folder of packed shards, or the https:// or s3:// URL of one")
    weight: float = field(
        1.0,
        "passes over this source in one pass over all; 0.5 takes half of it each time, 0 leaves it out",
        ge=0,
    )
    skip_fraction: float = field(
        0.0,
        "share of this source that comes last: those that a stage before has taken",
        ge=0,
        le=1,
    )


@dataclass(frozen=True)
class DataConfig:
    """Which samples make a step, and how they are read."""

    sources: dict[str, SourceConfig] = field(
        {}, "named training sources: data.sources.NAME.shards=FOLDER"
    )
    val_sources: dict[str, SourceConfig] = field(
        {}, "named validation sources; their weights do not count"
    )
    questions_per_sample: int = field(
        5,
        "questions about one video or picture in one multi-turn sample",
        unit="questions",
        ge=1,
    )
    val_questions_per_video: int = field(
        30,
        "questions asked about each validation video, spread over those it has",
        unit="questions",
        ge=1,
    )
    global_batch_size: int = field(
        128, "samples in an optimizer step, over all ranks", unit="samples", ge=1
    )
    micro_batch_size: int = field(1, "samples that a rank holds at once", unit="samples", ge=1)
    shuffle_shards: int = field(
        4, "neighbouring shards whose samples are shuffled together", unit="shards", ge=1
    )
    length_balance_window: int = field(
        100,
        "neighbouring steps that exchange samples, so that those of one step take about equal work and no rank waits for the"
        " one with the longest video; 1 for none",
        unit="steps",
        ge=1,
    )
    num_workers: int = field(
        2,
        "processes of each rank that load data; 0 loads in the rank itself, -1 starts one per core",
        unit="processes",
        ge=-1,
    )
    timeout_seconds: float = field(
        1200.0,
        "how long a rank waits for a process that reads ahead until the run stops and says what that reads; 0 for ever, and"
        " above 1800 the other ranks give up before",
        unit="s",
        ge=0,
    )
    max_bad_samples: int = field(
        0,
        "videos and pictures that a rank may fail to read before the run stops; each is listed",
        unit="videos",
        ge=0,
    )
    on_data_change: Literal["error", "warn"] = field(
        "error",
        "data that have changed since the checkpoint: refuse them, or go on with them and say so",
    )
    cache_folder: str = field(
        "shards/cache", "where shards from a URL are kept; all processes of a machine share it"
    )
    cache_gb: float = field(
        100.0,
        "size that the cache may have; what was used least recently makes room",
        unit="GB",
        gt=0,
    )
    s3_endpoint: str = field(
        "https://s3.amazonaws.com", "s3://bucket/path is fetched from here, as ENDPOINT/bucket/path"
    )


@dataclass(frozen=True)
class FeatureConfig:
    """How videos become features: what the vision encoder makes of them, once for all epochs."""

    precision: Literal["bf16", "int8"] = field(
        "bf16",
        "how tokens are stored: in bf16, or in half the size as 8-bit numbers with a scale for each token",
    )


def resolve_num_workers(num_workers: int) -> int:
    """Return the number of processes that a `num_workers` setting stands for: -1 is one per core of the machine."""
    return (os.cpu_count() or 1) if num_workers == -1 else num_workers
