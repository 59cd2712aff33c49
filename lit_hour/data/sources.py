"""The data sources of a run: opened shards, checked against its settings, and their fingerprint.

The order of samples is a pure function of the fingerprint (`sample_order.py`). A checkpoint stores
it: as long as it stays the same, a run resumes with exactly the next samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal

from lit_hour.config.data import SourceConfig
from lit_hour.config.diff import describe_changes
from lit_hour.config.schema import Config
from lit_hour.data.external.files import open_files
from lit_hour.data.external.tar_files import names_tars
from lit_hour.data.external.webdataset import open_webdataset
from lit_hour.data.features.format import describe_feature_changes, feature_config
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.training_samples import samples_per_shard
from lit_hour.errors import ConfigError, list_first

SAMPLING_KEYS = ("sampling", "fps", "min_frames", "max_frames")
GLOBAL_BATCH_KEY = "data.global_batch_size"
ORDER_KEYS = (
    "run.seed",
    "data.questions_per_sample",
    GLOBAL_BATCH_KEY,
    "data.shuffle_shards",
    "data.length_balance_window",
    "image.max_tiles",
    "model.memaug.min_frames",
    "model.vision.grid",
)  # the last three determine the cost of a sample
CONVERSATIONS_KEY = "data.conversations_per_video"
BUDGET_KEY = "data.tokens_per_batch"
BUDGET_KEYS = (  # determine the batches of a budget
    BUDGET_KEY,
    "data.batches_per_step",
    "data.min_bytes_per_token",
    "training.packing",
    "image.max_grid",
    "text.max_tokens",
    "text.system_prompt",
    "text.time_sentence",
    "text.frame_times",
    "text.frames_per_time",
    "video.frames",
)
FORGETTING_KEYS = (  # determine the tokens of a sample for the language model
    "model.memaug.max_kept_frames",
    "model.memaug.spatial_forgetting",
    "model.memaug.spatial_keep_ratio",
    "model.memaug.temporal_forgetting",
    "model.memaug.temporal_keep_ratio",
)
OPTIONAL_KEYS = {  # with their defaults
    CONVERSATIONS_KEY: 1,
    BUDGET_KEY: 0,
    "text.frame_times": "off",
    "text.frames_per_time": 1,
}
SOURCE_KEYS = ("weight", "skip_fraction")

# The kinds of sources; each returns shards, and their `read` works in any process.
OPENERS: dict[str, Callable[[SourceConfig, Config], Shards]] = {
    "packed": lambda source, config: open_shards(source.shards, config.data),
    "webdataset": open_webdataset,
    "files": open_files,
}

# {"config": {key: value}, "sources": {name: {key: value, "shards": {tar: [SHA-256, samples]}}}}
DataFingerprint = dict[str, Any]


def open_sources(config: Config, split: Literal["train", "val"] = "train") -> dict[str, Shards]:
    """Open the shards of each training or validation source, by its name.

    Training sources with a weight of 0 are left out; their folders may be missing.

    Raises:
        ShardError: a folder of shards is missing or corrupt.
        ConfigError: as `check_videos`; or a source has features, and the vision encoder is trained.
    """
    is_train = split == "train"
    sources = config.data.sources if is_train else config.data.val_sources
    opened = {
        name: open_source(source, config)
        for name, source in sorted(sources.items())
        if source.weight > 0 or not is_train
    }
    learning_rate = config.training.learning_rate.vision
    for shards in opened.values():
        check_videos(shards, config)
        if learning_rate > 0 and shards.feature_metadata():
            raise ConfigError(
                f"{shards.name} has features, which would not match the vision encoder after the"
                f" first step with training.learning_rate.vision={learning_rate:g}. Set it to 0, or"
                " train on the frames that the features were extracted from."
            )
    return opened


def open_source(source: SourceConfig, config: Config) -> Shards:
    """Open one source, by its kind.

    Raises:
        ShardError, ConfigError: see the function of `OPENERS` for that kind.
    """
    kind = source.kind
    if kind == "auto":
        kind = "webdataset" if names_tars(source.shards) else "packed"
        kind = "files" if source.questions else kind
    return OPENERS[kind](source, config)


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
            changes = describe_feature_changes(index.features.config, feature_config(config))
            if changes:
                raise ConfigError(
                    f"The features in {shards.name} were extracted with other settings than this"
                    f" run's: {'; '.join(changes)}. Set these back, or extract features again:"
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


def data_fingerprint(config: Config, sources: Mapping[str, Shards]) -> DataFingerprint:
    """Return the settings and shards that determine the order, wherever the shards are."""
    return {
        "config": {key: attrgetter(key)(config) for key in _order_keys(config)},
        "sources": {
            name: {
                **{key: getattr(config.data.sources[name], key) for key in SOURCE_KEYS},
                "shards": {
                    index.shard: [index.sha256, num_samples]
                    for index, num_samples in zip(
                        shards.indexes, samples_per_shard(shards, config), strict=True
                    )
                },
            }
            for name, shards in sources.items()
        },
    }


def diff_fingerprints(before: DataFingerprint, now: DataFingerprint) -> list[str]:
    """Return a text for each difference: settings, sources, and the shards of a source."""
    changes = describe_changes(*_comparable_settings(before["config"], now["config"]))
    old_sources, new_sources = before["sources"], now["sources"]
    changes += [f"source {name!r} is gone" for name in sorted(old_sources.keys() - new_sources)]
    changes += [f"source {name!r} is new" for name in sorted(new_sources.keys() - old_sources)]
    for name in sorted(old_sources.keys() & new_sources):
        old, new = old_sources[name], new_sources[name]
        changes += describe_changes(
            *(
                {f"data.sources.{name}.{key}": source[key] for key in SOURCE_KEYS}
                for source in (old, new)
            )
        )
        changes += _diff_shards(name, old["shards"], new["shards"])
    return changes


def _order_keys(config: Config) -> dict[str, None]:
    """Return the settings that determine the order of samples.

    By default they are those of checkpoints that are older than `OPTIONAL_KEYS`.
    """
    keys = dict.fromkeys(ORDER_KEYS)
    if config.data.conversations_per_video != 1:
        keys |= dict.fromkeys((CONVERSATIONS_KEY, *FORGETTING_KEYS))
    if config.data.conversations_per_video == 0:
        keys |= dict.fromkeys(("text.max_tokens",))
    if config.data.tokens_per_batch:
        keys |= dict.fromkeys((*BUDGET_KEYS, *FORGETTING_KEYS))
        del keys[GLOBAL_BATCH_KEY]
    return keys


def _comparable_settings(*settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Add the defaults of `OPTIONAL_KEYS` where they are missing.

    What else only one fingerprint has, because one of these is another one, is left out.
    """
    common = set(ORDER_KEYS) - {GLOBAL_BATCH_KEY} | set.intersection(*map(set, settings))
    for one in settings:
        kept = {key: value for key, value in one.items() if key in common}
        yield {**kept, **{key: one.get(key, value) for key, value in OPTIONAL_KEYS.items()}}


def _diff_shards(source: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    common = before.keys() & now.keys()
    found = {
        "new": now.keys() - before.keys(),
        "gone": before.keys() - now.keys(),
        "changed": {name for name in common if before[name] != now[name]},
    }
    for state, names in found.items():
        if names:
            noun = "shard is" if len(names) == 1 else "shards are"
            yield f"source {source!r}: {len(names)} {noun} {state} ({list_first(sorted(names))})"
