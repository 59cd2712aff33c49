"""Whether interruptions change anything: python -m tests.benchmarks.resume_exactness [SEED ...]

Forty steps of a small run over two weighted sources, several passes long, once left alone and once broken off three times at
random: by kill -9, SIGTERM and SIGUSR1, in random order, anywhere in a step. Compared to the last bit, for 1 and 2 ranks with
0 and 2 workers: the loss of each step in TensorBoard, and the weights, the optimizer's state and the samples of the last
checkpoint.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lit_hour.synthetic.dataset import build_and_pack
from tests.helpers.toy_run import ToyProject, toy_settings
from tests.training.interrupted import Layout, Result, draw, run_to_the_end

NUM_STEPS = 40
LAYOUTS = (Layout(1, 0), Layout(1, 2), Layout(2, 0), Layout(2, 2))


def main(seeds: list[int]) -> int:
    """Print what was compared; how many runs came to something else."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    num_wrong = 0
    with TemporaryDirectory() as folder:
        toy = ToyProject.write(Path(folder), toy_settings(Path(folder) / "world"))
        build_and_pack(toy.config("none"))
        words = [
            f"training.max_steps={NUM_STEPS}",
            "training.val_every_n_steps=10",
            "training.save_every_n_steps=4",
            "data.length_balance_window=3",
            f"data.sources.again.shards={folder}/world/train/shards",
            "data.sources.again.weight=0.5",
        ]
        for layout in LAYOUTS:
            run_to_the_end(toy, f"alone-{layout}", layout, [], words)
            alone = Result.of(toy, f"alone-{layout}")
            for seed in seeds:
                interruptions = draw(seed, NUM_STEPS, layout)
                begun = run_to_the_end(toy, f"{layout}-{seed}", layout, interruptions, words)
                differences = alone.differences(Result.of(toy, f"{layout}-{seed}"))
                num_wrong += bool(differences)
                print(f"{layout} ranks x workers: {', '.join(map(str, interruptions))}")
                print(
                    "  the starts after them:",
                    "; ".join(each.replace(f"{toy.runs}/", "") for each in begun[1:]),
                )
                compared = f"{len(alone.losses)} losses, {len(alone.weights)} weights, {len(alone.optimizer)} tensors of the optimizer"
                print(
                    f"  {compared}, {alone.position[1]} samples:",
                    "; ".join(differences) or "all the same",
                    flush=True,
                )
    return num_wrong


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or [0]))
