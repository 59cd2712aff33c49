"""The named sources of a run and its settings -> opened shards, or how their videos do not fit the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config
from lit_hour.data.features.format import FeatureMetadata, diff_configs, feature_config
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.shards.shard_index import ShardIndex
from lit_hour.data.shards.storage import ShardCache
from lit_hour.errors import ConfigError

SAMPLING_KEYS = ("fps", "min_frames", "max_frames")


def open_sources(sources: Mapping[str, SourceConfig], config: Config) -> dict[str, Shards]:
    """Open the shards of each source.

    Raises:
        ShardError: a folder of shards is missing or damaged.
        ConfigError: as `check_videos`; or videos are stored as features, and the vision encoder that made them is to learn.
    """
    cache = ShardCache.from_config(config.data)
    opened = {name: open_shards(source.shards, cache) for name, source in sorted(sources.items())}
    for shards in opened.values():
        check_videos(shards, config)
        if config.training.learning_rate.vision > 0 and feature_metadata_of([shards]):
            raise ConfigError(
                f"{shards.folder} holds features of a vision encoder that would not be the same one any more after the first"
                f" step (training.learning_rate.vision={config.training.learning_rate.vision:g}): set"
                " training.learning_rate.vision=0, or train on the frames that they were made from"
            )
    return opened


def check_videos(shards: Shards, config: Config) -> None:
    """Refuse videos that were sampled or encoded by other settings than those by which questions will be answered.

    Raises:
        ConfigError: it names the settings that differ. Those of shards without videos do not count.
    """
    settings = feature_config(config)
    for index in _with_videos(shards):
        if index.features is None:
            _check_sampling(shards, index.config, config)
        elif differences := diff_configs(index.features.config, settings):
            raise ConfigError(
                f"the features in {shards.folder} were encoded by other settings than this run's: {'; '.join(differences)}."
                " Set these back, or encode again by this run's settings: python -m lit_hour extract-features SOURCE TARGET ..."
            )


def feature_metadata_of(sources: Iterable[Shards]) -> dict[str, FeatureMetadata]:
    """What features of videos were encoded by, one for each shard that holds some: by the path of the shard."""
    return {
        f"{shards.folder}/{index.shard}": index.features
        for shards in sources
        for index in _with_videos(shards)
        if index.features
    }


def _with_videos(shards: Shards) -> list[ShardIndex]:
    return [
        index
        for index in shards.indexes
        if any(subject.modality == "video" for subject in index.entries)
    ]


def _check_sampling(shards: Shards, settings: dict[str, Any], config: Config) -> None:
    for key in SAMPLING_KEYS:
        packed, wanted = settings[key], getattr(config.video, key)
        if packed != wanted:
            raise ConfigError(
                f"{shards.folder} was packed with video.{key}={packed}, this run has {wanted}: set video.{key}={packed},"
                " or pack again with this run's settings"
            )
