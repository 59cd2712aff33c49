from pathlib import Path

import pytest

from lit_hour.weights.reader import open_weights
from tests.weights.factories import TOWER_OVERRIDES
from tests.weights.memory_probe import LARGE_CONFIG, measure, write_large

MEGABYTE = 1_000_000
SHARD_BYTES = 20 * MEGABYTE
SLACK_BYTES = 40 * MEGABYTE  # buffers of the system and of Python; a fifth of the checkpoint


@pytest.mark.slow
def test_conversion_holds_at_most_one_shard(tmp_path: Path) -> None:
    published, run, back = (tmp_path / name for name in ("published", "run", "back"))
    num_bytes = write_large(
        published, LARGE_CONFIG | {"vocab_size": 4000, "num_hidden_layers": 4}, SHARD_BYTES
    )
    assert num_bytes > 200 * MEGABYTE
    largest = max(
        meta_tensor.nbytes for meta_tensor in open_weights(published).meta_tensors.values()
    )
    peak = measure(
        [(str(published), str(run), TOWER_OVERRIDES), (str(run), str(back), ())], SHARD_BYTES
    )
    assert peak.anonymous_bytes < largest + SLACK_BYTES, str(peak)
    assert peak.total_bytes < SHARD_BYTES + largest + SLACK_BYTES, str(peak)
