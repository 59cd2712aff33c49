"""What an order of samples is made of -> plain containers for a checkpoint, and in words how two of them differ.

The order is a pure function of these. As long as none of them changes, a run goes on with exactly the next samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lit_hour.config.schema import Config
from lit_hour.data.shards.reader import Shards

NUM_NAMED = 10  # shards that a message lists before it only counts

DataFingerprint = dict[
    str, Any
]  # {"settings": {name: value}, "sources": {name: {"weight": w, "start": s, "shards": {name: [SHA-256, samples]}}}}


def data_fingerprint(config: Config, sources: Mapping[str, Shards]) -> DataFingerprint:
    """Settings and shards of the sources that count; where they lie does not matter."""
    data = config.data
    settings = {
        "run.seed": config.run.seed,
        "data.questions_per_sample": data.questions_per_sample,
        "data.global_batch_size": data.global_batch_size,
        "data.shuffle_shards": data.shuffle_shards,
        "data.length_balance_window": data.length_balance_window,
        "image.max_tiles": config.image.max_tiles,
        "model.memaug.min_frames": config.model.memaug.min_frames,
        "model.vision.grid": config.model.vision.grid,
    }
    return {
        "settings": settings,
        "sources": {
            name: {
                "weight": data.sources[name].weight,
                "start": data.sources[name].skip_fraction,
                "shards": _describe_shards(shards, data.questions_per_sample),
            }
            for name, shards in sources.items()
        },
    }


def diff_fingerprints(before: DataFingerprint, now: DataFingerprint) -> list[str]:
    """Each difference as a message names it: settings, sources, and the shards of a source."""
    old_settings, new_settings = before["settings"], now["settings"]
    changes = [
        f"{name} was {old_settings.get(name)}, is {new_settings.get(name)}"
        for name in sorted(old_settings.keys() | new_settings.keys())
        if old_settings.get(name) != new_settings.get(name)
    ]
    old_sources, new_sources = before["sources"], now["sources"]
    changes += [
        f"the source {name!r} is gone" for name in sorted(old_sources.keys() - new_sources.keys())
    ]
    changes += [
        f"the source {name!r} is new" for name in sorted(new_sources.keys() - old_sources.keys())
    ]
    for name in sorted(old_sources.keys() & new_sources.keys()):
        old, new = old_sources[name], new_sources[name]
        changes += [
            f"data.sources.{name}.{key} was {old[key]}, is {new[key]}"
            for key in ("weight", "start")
            if old[key] != new[key]
        ]
        changes += [
            f"of the source {name!r} {words}"
            for words in _describe_shard_changes(old["shards"], new["shards"])
        ]
    return changes


def _describe_shards(shards: Shards, questions_per_sample: int) -> dict[str, list[Any]]:
    num_samples = shards.samples_per_shard(questions_per_sample)
    return {
        index.shard: [index.sha256, num]
        for index, num in zip(shards.indexes, num_samples, strict=True)
    }


def _describe_shard_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    found = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
    }
    for what, names in found.items():
        if names:
            some = ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")
            yield f"{len(names)} {'shard is' if len(names) == 1 else 'shards are'} {what} ({some})"
