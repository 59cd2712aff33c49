"""What determines the order of samples, as a checkpoint stores it, and how two such records differ.

The order is a pure function of this record (`sample_order.py`). As long as it stays the same, a run
resumes with exactly the next samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from lit_hour.config.diff import describe_changes
from lit_hour.config.schema import Config
from lit_hour.data.shards.reader import Shards
from lit_hour.errors import list_first

ORDER_KEYS = (
    "run.seed",
    "data.questions_per_sample",
    "data.global_batch_size",
    "data.shuffle_shards",
    "data.length_balance_window",
    "image.max_tiles",
    "model.memaug.min_frames",
    "model.vision.grid",
)  # the last three determine the cost of a sample
SOURCE_KEYS = ("weight", "skip_fraction")

# {"config": {key: value}, "sources": {name: {key: value, "shards": {tar: [SHA-256, samples]}}}}
DataFingerprint = dict[str, Any]


def data_fingerprint(config: Config, sources: Mapping[str, Shards]) -> DataFingerprint:
    """Return the settings and shards that determine the order.

    The location of the shards does not count.
    """
    num_questions = config.data.questions_per_sample
    return {
        "config": {key: attrgetter(key)(config) for key in ORDER_KEYS},
        "sources": {
            name: {
                **{key: getattr(config.data.sources[name], key) for key in SOURCE_KEYS},
                "shards": {
                    index.shard: [index.sha256, num_samples]
                    for index, num_samples in zip(
                        shards.indexes, shards.samples_per_shard(num_questions), strict=True
                    )
                },
            }
            for name, shards in sources.items()
        },
    }


def diff_fingerprints(before: DataFingerprint, now: DataFingerprint) -> list[str]:
    """Return a text for each difference: settings, sources, and the shards of a source."""
    changes = describe_changes(before["config"], now["config"])
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
