"""Loss by questions learned, with one and with eight conversations about a video in a sample.

    python -m tests.benchmarks.conversation_learning [STEPS] [SEED ...]

Trains the tiny model from random weights on synthetic videos of half a minute, with one question in
a conversation and the same number of questions in a step: 32 samples of one conversation, or 4 of
8. Prints the mean loss of the questions between marks, for each number of conversations over the
seeds, and the difference relative to the deviation between seeds. The loss of a step is measured
before its update, on questions that are new in the first pass.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from lit_hour.config.load import load_config
from lit_hour.data.packing.pack import pack
from lit_hour.synthetic.dataset import build_dataset
from tests import CONF
from tests.benchmarks.speed.questions.setups import repeat_questions

NUM_CONVERSATIONS = (1, 8)
CONVERSATIONS_PER_STEP = 32
NUM_VIDEOS, QUESTIONS_PER_VIDEO = 96, 16
NUM_MARKS = 6


def main(num_steps: int, seeds: Sequence[int]) -> None:
    """Train with each number of conversations and each seed, in alternation, and compare."""
    with TemporaryDirectory() as folder:
        write_shards(Path(folder))
        losses: dict[int, list[NDArray[np.float64]]] = {num: [] for num in NUM_CONVERSATIONS}
        for seed in seeds:
            for num in NUM_CONVERSATIONS:
                losses[num].append(train_losses(Path(folder), num, seed, num_steps))
                print(f"seed {seed}, {num}: {losses[num][-1].mean():.3f} on average", flush=True)
    print_curves({num: np.array(curves) for num, curves in losses.items()})


def write_shards(folder: Path) -> None:
    """Write videos with as many questions each."""
    overrides = [
        f"synthetic.folder={folder}/world",
        f"synthetic.num_videos={NUM_VIDEOS}",
        "synthetic.num_val_videos=1",
        "synthetic.num_hour_videos=0",
        "synthetic.duration_seconds=30",
    ]
    config = load_config(CONF / "tiny.yaml", overrides)
    dataset = build_dataset(config.synthetic)
    questions = repeat_questions(dataset.train_questions, QUESTIONS_PER_VIDEO)
    pack(dataset.train_videos, questions, folder / "shards", config.video, config.pack)


def train_losses(
    folder: Path, num_conversations: int, seed: int, num_steps: int
) -> NDArray[np.float64]:
    """Train a run, and return the loss of each step, `(steps,)`."""
    num_samples = CONVERSATIONS_PER_STEP // num_conversations
    name = f"{num_conversations}-{seed}"
    overrides = [
        f"run.folder={folder}/runs",
        f"run.name={name}",
        f"run.seed={seed}",
        "synthetic.num_videos=0",
        f"data.sources.world.shards={folder}/shards",
        "data.questions_per_sample=1",
        f"data.conversations_per_video={num_conversations}",
        f"data.global_batch_size={num_samples}",
        f"data.micro_batch_size={min(num_samples, 8)}",
        f"training.max_steps={num_steps}",
        "training.log_every_n_steps=1",
        f"training.save_every_n_steps={num_steps}",
    ]
    train.main(["-c", str(CONF / "tiny_model.yaml"), *overrides])
    curves = EventAccumulator(f"{folder}/runs/{name}/tensorboard", {"scalars": 0})
    curves.Reload()
    return np.array([event.value for event in curves.Scalars("train/loss")])  # (steps,)


def print_curves(losses: dict[int, NDArray[np.float64]]) -> None:
    """Print the mean loss between marks.

    Args:
        losses: `(seeds, steps)` for each number of conversations.
    """
    print(f"{'questions':>12}  " + "  ".join(f"{num} conversations" for num in losses))
    parts = [np.array_split(curves, NUM_MARKS, axis=1) for curves in losses.values()]
    learned = 0
    for one, other in zip(*parts, strict=True):
        start, learned = learned, learned + one.shape[1] * CONVERSATIONS_PER_STEP
        means = [part.mean(axis=1) for part in (one, other)]  # (seeds,) each
        spread = float(np.sqrt(sum(mean.var(ddof=1) for mean in means) / len(means)))
        difference = float(means[1].mean() - means[0].mean())
        columns = "  ".join(f"{mean.mean():7.3f} +- {mean.std(ddof=1):.3f}" for mean in means)
        print(
            f"{start:5} - {learned:5}  {columns}  difference {difference:+.3f},"
            f" {difference / spread:+.1f} deviations of a run",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 96, [*map(int, sys.argv[2:])] or [0, 1, 2])
