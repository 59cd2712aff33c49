"""Share of time that the default run waits for data: python -m tests.benchmarks.data_wait [WORKERS] [SETTING=VALUE ...]

Forty steps of conf/tiny.yaml on two dozen of its videos. The first line of TensorBoard holds the start of the workers.
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from tests import REPOSITORY

SHORT = (
    "training.max_steps=40",
    "training.val_every_n_steps=40",
    "training.num_val_images=0",
    "training.log_every_n_steps=5",
)
FEW = (
    "synthetic.num_videos=24",
    "synthetic.num_val_videos=2",
    "data.val_questions_per_video=1",
    "generation.max_new_tokens=1",
)


def main(num_workers: str, *words: str) -> None:
    """Train, and print what TensorBoard has."""
    with TemporaryDirectory() as folder:
        world = [f"synthetic.folder={folder}/world"]
        world += [
            f"data.{group}.world.shards={folder}/world/{split}/shards"
            for group, split in (("sources", "train"), ("val_sources", "validation"))
        ]
        run = [f"run.folder={folder}/runs", "run.name=waiting", f"data.num_workers={num_workers}"]
        train.main([str(REPOSITORY / "conf/tiny.yaml"), *SHORT, *FEW, *world, *run, *words])
        events = EventAccumulator(f"{folder}/runs/waiting/tensorboard")
        events.Reload()
        first, *later = [event.value for event in events.Scalars("throughput/data_wait_frac")]
        others = sum(later) / len(later)
        print(
            f"waiting for data with {num_workers} workers: {first:.2%} of the first 5 steps, {others:.2%} of the others"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "2", *sys.argv[2:])
