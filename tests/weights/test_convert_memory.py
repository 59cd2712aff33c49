from pathlib import Path

from lit_hour.weights.reader import open_weights
from tests.weights.made import TOWER_WORDS
from tests.weights.measured import SIZES, measure, write_large

MEGABYTE = 1_000_000
SHARD_BYTES = 20 * MEGABYTE
SLACK_BYTES = (
    40 * MEGABYTE
)  # buffers of the operating system and of Python; a fifth of what is converted


def test_no_more_than_a_shard_is_in_memory_in_either_direction(tmp_path: Path) -> None:
    published, run, back = (tmp_path / name for name in ("published", "run", "back"))
    num_bytes = write_large(
        published, SIZES | {"vocab_size": 4000, "num_hidden_layers": 4}, SHARD_BYTES
    )
    assert num_bytes > 200 * MEGABYTE
    largest = max(outline.nbytes for outline in open_weights(published).meta_tensors.values())
    peak = measure(
        [(str(published), str(run), TOWER_WORDS), (str(run), str(back), ())], SHARD_BYTES
    )
    assert peak.anonymous_bytes < largest + SLACK_BYTES, str(peak)
    assert peak.total_bytes < SHARD_BYTES + largest + SLACK_BYTES, str(peak)
