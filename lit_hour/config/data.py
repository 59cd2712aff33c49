"""Settings of the data: sources, batches, loading, and storage of features."""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class SourceConfig:
    """One named data source."""

    shards: str = field(
        MISSING,
        "folder of packed shards, or its URL; or tars of another project: data/{00000..00099}.tar",
    )
    kind: Literal["auto", "packed", "webdataset", "files"] = field(
        "auto",
        "packed: a folder of `lit-hour pack`; webdataset: tars that others wrote, see"
        " shards/README.md; files: a folder of videos and images; auto: files with a question file,"
        " webdataset if data.sources.NAME.shards names tars",
    )
    questions: str = field(
        "",
        "question file about the videos and images in the folder data.sources.NAME.shards, which"
        " are decoded in training without packing",
    )
    mapping: str = field(
        "",
        "YAML file that says which fields of the JSON in tars of others are question, answer,"
        " options or conversations; empty for those names",
    )
    index_folder: str = field(
        "",
        "folder of the indexes of tars of others; empty for the folder of each tar, or"
        " data.cache_folder if that cannot be written",
    )
    weight: float = field(
        1.0,
        "epochs over this source per epoch of the mixture: 0.5 uses half of it each time, 0"
        " disables it",
        ge=0,
    )
    skip_fraction: float = field(
        0.0,
        "share of the source to start after, such as the samples that an earlier stage used; these"
        " come last",
        ge=0,
        le=1,
    )


@dataclass(frozen=True)
class DataConfig:
    """Data sources, batch sizes and loading."""

    sources: dict[str, SourceConfig] = field(
        {}, "named training sources: data.sources.NAME.shards=FOLDER"
    )
    val_sources: dict[str, SourceConfig] = field(
        {}, "named validation sources; their weights are ignored"
    )
    questions_per_sample: int = field(
        5,
        "questions about one video or image in one multi-turn conversation",
        unit="questions",
        ge=1,
    )
    conversations_per_video: int = field(
        1,
        "conversations in a training sample: the video or image is read, encoded and projected once"
        " for all of them. 0 takes all conversations about it that together fit into"
        " text.max_tokens, estimated, and at least one",
        unit="conversations",
        ge=0,
    )
    val_questions_per_video: int = field(
        30,
        "validation questions about each video, spread evenly over all of its questions",
        unit="questions",
        ge=1,
    )
    global_batch_size: int = field(
        128,
        "samples in an optimizer step, over all ranks",
        unit="samples",
        ge=1,
    )
    micro_batch_size: int = field(
        1,
        "samples that a rank processes at once; gradients are accumulated over micro-batches. It"
        " changes speed and memory, not what a step learns",
        unit="samples",
        ge=1,
    )
    tokens_per_batch: int = field(
        0,
        "tokens that the language model computes at once, in place of data.micro_batch_size: a rank"
        " gets as many samples of similar length as fit, if data.min_bytes_per_token is true of"
        " them. Counted are texts with their visual tokens and, without training.packing, their"
        " padding. A longer sample is alone. 0 for a fixed number of samples",
        unit="tokens",
        ge=0,
    )
    batches_per_step: int = field(
        0,
        "batches of data.tokens_per_batch in an optimizer step, over all ranks, in place of"
        " data.global_batch_size",
        unit="batches",
        ge=0,
    )
    min_bytes_per_token: float = field(
        2.0,
        "UTF-8 bytes per token that questions and answers are assumed to have at least: bounds the"
        " length of a text for data.tokens_per_batch. Only 1 is certain; English has about 4",
        ge=1,
    )
    shuffle_shards: int = field(
        4,
        "consecutive shards whose samples are shuffled together",
        unit="shards",
        ge=1,
    )
    length_balance_window: int = field(
        100,
        "consecutive steps that exchange samples so that the samples of a step cost about the same"
        " and no rank waits for the one with the longest video; 1 disables it",
        unit="steps",
        ge=1,
    )
    num_workers: int = field(
        2,
        "DataLoader workers of each rank; 0 loads in the rank itself, -1 starts one per core",
        unit="processes",
        ge=-1,
    )
    frame_arena_gb: float = field(
        5.0,
        "memory of each worker that decoded frames are written to again and again, taken from the"
        " system as needed: about four of the largest micro-batches. Frames beyond it get new"
        " memory, which is slower; 0 disables it",
        unit="GB",
        ge=0,
    )
    timeout_seconds: float = field(
        1200.0,
        "longest wait of a rank for a worker before the run stops and names the sample; 0 for no"
        " limit. Above 1800 the other ranks give up first",
        unit="s",
        ge=0,
    )
    max_bad_samples: int = field(
        0,
        "videos and images that a rank may fail to read before the run stops; each is listed",
        unit="videos",
        ge=0,
    )
    on_data_change: Literal["error", "warn"] = field(
        "error",
        "when the data differ from those of the checkpoint: raise an error, or log a warning and"
        " continue",
    )
    cache_folder: str = field(
        "shards/cache",
        "folder of shards downloaded from a URL; all processes of a machine share it",
    )
    cache_gb: float = field(
        100.0,
        "size limit of the cache; the least recently used shards are deleted",
        unit="GB",
        gt=0,
    )
    s3_endpoint: str = field(
        "", "URL of the server of s3:// URLs; empty for AWS_ENDPOINT_URL, or Amazon's"
    )


@dataclass(frozen=True)
class FeatureConfig:
    """Storage of vision encoder features by `lit-hour extract-features`."""

    precision: Literal["bf16", "int8"] = field(
        "bf16", "bfloat16, or 8-bit integers with a scale per token in half the size"
    )


def resolve_num_workers(num_workers: int) -> int:
    """Return the number of processes for a `num_workers` setting, where -1 means one per core."""
    return (os.cpu_count() or 1) if num_workers == -1 else num_workers
