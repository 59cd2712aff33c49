"""Share of time that the default run waits for data.

    python -m tests.benchmarks.data_wait [WORKERS] [SETTING=VALUE ...]

Trains 40 steps of conf/tiny.yaml on 24 of its videos. The first value that TensorBoard has includes
the start of the workers.
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from tests import CONF

SHORT_RUN = (
    "training.max_steps=40",
    "training.val_every_n_steps=40",
    "training.num_val_images=0",
    "training.log_every_n_steps=5",
)
FEW_VIDEOS = (
    "synthetic.num_videos=24",
    "synthetic.num_val_videos=2",
    "data.val_questions_per_video=1",
    "generation.max_new_tokens=1",
)


def main(num_workers: str, *overrides: str) -> None:
    """Train, and print the share of waiting that is in TensorBoard."""
    with TemporaryDirectory() as folder:
        folders = [
            f"run.folder={folder}/runs",
            f"synthetic.folder={folder}/data",
            f"data.sources.world.shards={folder}/data/train/shards",
            f"data.val_sources.world.shards={folder}/data/validation/shards",
        ]
        run = ["run.name=data_wait", f"data.num_workers={num_workers}"]
        settings = [*SHORT_RUN, *FEW_VIDEOS, *folders, *run, *overrides]
        train.main(["-c", str(CONF / "tiny.yaml"), *settings])
        events = EventAccumulator(f"{folder}/runs/data_wait/tensorboard")
        events.Reload()
        first, *later = [event.value for event in events.Scalars("throughput/data_wait_frac")]
    print(
        f"waiting for data with {num_workers} workers: {first:.2%} of the first 5 steps,"
        f" {sum(later) / len(later):.2%} of the others"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "2", *sys.argv[2:])
