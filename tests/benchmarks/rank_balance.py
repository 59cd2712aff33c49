"""Balance of work over ranks: `python -m tests.benchmarks.rank_balance [WINDOW ...]`.

Simulates the project's sample order on as many samples as in the published training, with videos as
long as the published ones. WINDOW is `data.length_balance_window`. The work of a sample is taken to
be its tokens, or only the duration of its video. The table has the mean over 256 steps of the mean
work of a rank divided by the maximum, for whole steps and for micro-batches of one sample per rank.
"""

from __future__ import annotations

import sys
import time

from lit_hour.config.data import DataConfig
from tests.data.published_lengths import PublishedLengths, iter_steps, measure_balance

DEFAULTS = DataConfig()
LAYOUTS = (  # ranks, samples per step
    (8, DEFAULTS.global_batch_size),
    (64, DEFAULTS.global_batch_size),
    (1024, 1024),
    (8, 8),
    (64, 64),
)
NUM_STEPS = 256


def main(windows: list[int]) -> None:
    """Simulate every layout and window, and print a row for each."""
    data = PublishedLengths()
    print(
        f"{len(data.seconds)} videos, {data.mixed_order.num_samples} samples;"
        " window 1 is random order"
    )
    print(
        "ranks  samples/step  window | tokens: step, micro-batch | duration: step, micro-batch |"
        " us/sample  s/window"
    )
    for num_ranks, samples_per_step in LAYOUTS:
        for window in (1, *windows):
            order = data.balanced_order(samples_per_step, window)
            started = time.perf_counter()
            order[0]
            window_seconds = time.perf_counter() - started
            steps = list(iter_steps(order, NUM_STEPS))
            seconds = time.perf_counter() - started
            tokens = measure_balance([data.tokens_at(step) for step in steps], num_ranks)
            duration = measure_balance([data.seconds_at(step) for step in steps], num_ranks)
            print(
                f"{num_ranks:5d}  {samples_per_step:12d}  {window:6d} |"
                f"         {tokens.steps:.3f}  {tokens.micro_batches:.3f}      |"
                f"         {duration.steps:.3f}  {duration.micro_batches:.3f}        |"
                f"  {1e6 * seconds / NUM_STEPS / samples_per_step:8.2f}  {window_seconds:8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(window) for window in sys.argv[1:]] or [DEFAULTS.length_balance_window])
