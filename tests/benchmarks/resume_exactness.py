"""Exactness of resumed runs: `python -m tests.benchmarks.resume_exactness [SEED ...]`.

Trains 40 steps of a toy run over two weighted sources, several epochs long: once without an
interruption, and once with four, by SIGKILL, SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) in random order,
anywhere in a step; during its last start a second process tries to start the run. Compares bit for
bit, for 1 and 2 ranks with 0 and 2 workers: the loss of every step in TensorBoard, and weights,
optimizer state and sample position of the last checkpoint.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lit_hour.synthetic.packing import build_and_pack
from tests.helpers.toy_run import ToyProject, toy_settings
from tests.training.interruption import Layout, Result, draw, run_to_the_end

NUM_STEPS = 40
LAYOUTS = (Layout(1, 0), Layout(1, 2), Layout(2, 0), Layout(2, 2))


def main(seeds: list[int]) -> int:
    """Print the comparisons, and return the number of runs that differ."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    # a shell ignores it in a background job, and so would the runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    num_different = 0
    with TemporaryDirectory() as folder:
        data = Path(folder) / "world"
        toy = ToyProject.write(Path(folder), toy_settings(data))
        build_and_pack(toy.config("none"))
        overrides = [
            f"training.max_steps={NUM_STEPS}",
            "training.val_every_n_steps=10",
            "training.save_every_n_steps=4",
            "data.length_balance_window=3",
            f"data.sources.again.shards={data}/train/shards",
            "data.sources.again.weight=0.5",
        ]
        for layout in LAYOUTS:
            run_to_the_end(toy, f"alone-{layout}", layout, [], overrides)
            expected = Result.of(toy, f"alone-{layout}")
            for seed in seeds:
                name, interruptions = f"{layout}-{seed}", draw(seed, NUM_STEPS, layout)
                starts = run_to_the_end(toy, name, layout, interruptions, overrides)
                differences = expected.differences(Result.of(toy, name))
                num_different += bool(differences)
                print(f"{layout} ranks x workers: {', '.join(map(str, interruptions))}")
                resumed = (start.replace(f"{toy.runs}/", "") for start in starts[1:])
                print(f"  resumed: {'; '.join(resumed)}")
                print(
                    f"  {len(expected.losses)} losses, {len(expected.weights)} weights,"
                    f" {len(expected.optimizer)} tensors of the optimizer,"
                    f" {expected.position[1]} samples:",
                    "; ".join(differences) or "all equal",
                    flush=True,
                )
    return num_different


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0]))
