"""The data sources of a run: opened shards whose videos match the settings of the run."""

from __future__ import annotations

from collections.abc import Mapping

from lit_hour.config.data import SourceConfig
from lit_hour.config.diff import describe_changes
from lit_hour.config.schema import Config
from lit_hour.data.features.format import feature_config
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.errors import ConfigError

SAMPLING_KEYS = ("fps", "min_frames", "max_frames")


def open_training_sources(config: Config) -> dict[str, Shards]:
    """Open the training sources with a weight above 0; the folders of the others may be missing.

    Raises:
        ShardError, ConfigError: as `open_sources`.
    """
    sources = config.data.sources.items()
    return open_sources({name: source for name, source in sources if source.weight > 0}, config)


def open_sources(sources: Mapping[str, SourceConfig], config: Config) -> dict[str, Shards]:
    """Open the shards of each source.

    Raises:
        ShardError: a folder of shards is missing or corrupt.
        ConfigError: as `check_videos`; or a source has features, and the vision encoder is trained.
    """
    opened = {
        name: open_shards(source.shards, config.data) for name, source in sorted(sources.items())
    }
    learning_rate = config.training.learning_rate.vision
    for shards in opened.values():
        check_videos(shards, config)
        if learning_rate > 0 and shards.feature_metadata():
            raise ConfigError(
                f"{shards.name} has features, which would not match the vision encoder after the "
                "first"
                f" step with training.learning_rate.vision={learning_rate:g}. Set it to 0, or "
                "train on"
                " the frames that the features were extracted from."
            )
    return opened


def check_videos(shards: Shards, config: Config) -> None:
    """Check that videos were sampled and encoded by this run's settings.

    Other modalities do not count.

    Raises:
        ConfigError: a setting differs.
    """
    for index in shards.indexes:
        if not any(entry.modality == "video" for entry in index.entries):
            continue
        if index.features is not None:
            changes = describe_changes(index.features.config, feature_config(config))
            if changes:
                raise ConfigError(
                    f"The features in {shards.name} were extracted with other settings than this "
                    "run's:"
                    f" {'; '.join(changes)}. Set these back, or extract features again:"
                    " lit-hour extract-features SOURCE TARGET."
                )
            continue
        for key in SAMPLING_KEYS:
            packed, wanted = index.config[key], getattr(config.video, key)
            if packed != wanted:
                raise ConfigError(
                    f"{shards.name} was packed with video.{key}={packed}, this run has {wanted}."
                    f" Set video.{key}={packed}, or pack again with this run's settings."
                )
