"""Memory of converting checkpoints: `python -m tests.benchmarks.conversion_memory [GIGABYTES]`.

A checkpoint in the published layout of about this size, in bf16 with random weights, is converted
to a run and back, and once more from a Lightning checkpoint in float32. Each conversion runs in a
new process, and its memory is measured above that of its imports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lit_hour.run_dir import RunDir
from lit_hour.weights.reader import open_weights
from lit_hour.weights.safetensors_writer import SHARD_BYTES
from tests.weights.factories import TOWER_OVERRIDES
from tests.weights.memory_probe import LARGE_CONFIG, measure, write_large

SMALL_SHARD_BYTES = 400_000_000


def write_training_checkpoint(run: RunDir) -> None:
    """Write the converted weights of a run as a single float32 checkpoint, as training does."""
    stored = open_weights(run.checkpoints / "converted")
    state = {f"model.{name}": tensor.float() for name, tensor in stored.tensors()}
    torch.save({"state_dict": state}, run.checkpoints / "last.ckpt")
    (run.checkpoints / "last.yaml").write_bytes((run.checkpoints / "converted.yaml").read_bytes())


def main(gigabytes: float) -> None:
    """Measure every direction and print the results."""
    sizes = LARGE_CONFIG | {
        "vocab_size": int(gigabytes * 100_000),
        "num_hidden_layers": max(1, round(gigabytes * 16)),
    }
    with TemporaryDirectory() as folder:
        published, trained = f"{folder}/published", f"{folder}/trained"
        num_bytes = write_large(Path(published), sizes, SMALL_SHARD_BYTES)
        num_files = len(list(Path(published).glob("*.safetensors")))
        meta_tensors = open_weights(Path(published)).meta_tensors.values()
        largest = max(tensor.nbytes for tensor in meta_tensors)
        print(
            f"{num_bytes / 1e9:.2f} GB in {num_files} files; largest weight {largest / 1e6:.0f} MB"
        )
        for shard_bytes in (SMALL_SHARD_BYTES, SHARD_BYTES):
            run, back = f"{folder}/run_{shard_bytes}", f"{folder}/back_{shard_bytes}"
            print(f"written in files of {shard_bytes / 1e6:.0f} MB:")
            to_run = measure([(published, run, TOWER_OVERRIDES)], shard_bytes)
            print("  published -> run:          ", to_run)
            print("  run -> published:          ", measure([(run, back, ())], shard_bytes))
        write_training_checkpoint(RunDir(Path(run)))
        print("  float32 .ckpt -> published:", measure([(run, trained, (), "last")], SHARD_BYTES))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
