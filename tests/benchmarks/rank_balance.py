"""How evenly the ranks of a step share its work: python -m tests.benchmarks.rank_balance [BALANCE_STEPS ...]

A simulation with the project's own order on as many samples as the published training has, whose videos are as long as the
published ones. The work of a sample is taken to be its tokens, or just the duration of its video. Printed are the means over
256 steps of the mean over the maximum of the work of the ranks, in a step, and in a micro-batch of one sample for each rank.
"""

from __future__ import annotations

import sys
import time

from lit_hour.config.data import DataConfig
from tests.data.durations import Published, evenness, steps_of

DEFAULTS = DataConfig()
LAYOUTS = (
    (8, DEFAULTS.global_batch_size),
    (64, DEFAULTS.global_batch_size),
    (1024, 1024),
    (8, 8),
    (64, 64),
)  # ranks, samples
NUM_STEPS = 256


def main(all_balance_steps: list[int]) -> None:
    """Measure every layout and print a line for each."""
    data = Published()
    print(
        f"{len(data.seconds)} videos, {len(data.mixed)} samples; data.length_balance_window=1 is random order"
    )
    print(
        "ranks  samples/step  balance_steps | tokens: step, micro-batch | duration: step, micro-batch | us/place  s/window"
    )
    for num_ranks, samples_per_step in LAYOUTS:
        for balance_steps in (1, *all_balance_steps):
            order = data.balanced(samples_per_step, balance_steps)
            started = time.perf_counter()
            order[0]
            seconds_window = time.perf_counter() - started
            steps = list(steps_of(order, NUM_STEPS))
            seconds = time.perf_counter() - started
            by_tokens = evenness([data.tokens_at(step) for step in steps], num_ranks)
            by_duration = evenness([data.seconds_at(step) for step in steps], num_ranks)
            print(
                f"{num_ranks:5d}  {samples_per_step:12d}  {balance_steps:13d} |"
                f"         {by_tokens.steps:.3f}  {by_tokens.micro_batches:.3f}      |"
                f"         {by_duration.steps:.3f}  {by_duration.micro_batches:.3f}        |"
                f"  {1e6 * seconds / NUM_STEPS / samples_per_step:6.2f}  {seconds_window:8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [DEFAULTS.length_balance_window])
