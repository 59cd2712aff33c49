"""Train a few real steps on the longest samples, and measure the memory of rank 0.

    python -m tests.plan.measured_run OUT.json FILE.yaml ... [key=value ...]

OUT.json gets the peaks of a step by phase, in bytes: torch's profiler records each allocation and
each release of the CPU allocator, from before the model is built. gloo frees the buffers of a
collective in a thread of its own, so a busy machine holds some of them longer: a phase's peak is
the least of all steps but the first. Lightning starts the other ranks with the same command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from lit_hour.config.load import load_config
from lit_hour.data.sample_order import micro_batches_per_step
from lit_hour.plan.longest_sample import LongestSample, build_batch
from lit_hour.plan.model_sizes import num_tokens
from lit_hour.run_dir import RunDir
from lit_hour.training.module import HourLLaVAModule
from lit_hour.training.trainer_setup import build_trainer

NUM_STEPS = 5  # the optimizer has no state in the first, which is left out


class PhaseClock(Callback):
    """Records when each phase of each step begins, in nanoseconds."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int, str]] = []

    def _start(self, trainer: L.Trainer, phase: str) -> None:
        self.starts.append((time.time_ns(), trainer.global_step, phase))

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._start(trainer, "forward")

    def on_before_backward(self, trainer: L.Trainer, *args: Any) -> None:
        self._start(trainer, "backward")

    def on_before_optimizer_step(self, trainer: L.Trainer, *args: Any) -> None:
        self._start(trainer, "optimizer step")


def measure(words: list[str], sample: LongestSample) -> dict[str, int]:
    """Train, and return the largest memory of each phase, in the step where it is least."""
    config = load_config(
        [word for word in words if word.endswith(".yaml")], [word for word in words if "=" in word]
    )
    clock, data = PhaseClock(), config.data
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        module = HourLLaVAModule(config, num_tokens(config), NUM_STEPS)
        batch = build_batch(config, sample, module.model, data.micro_batch_size)
        steps: Any = SimpleNamespace(
            num_steps=NUM_STEPS,
            micro_batches_per_step=lambda num_ranks: micro_batches_per_step(
                data.global_batch_size, data.micro_batch_size, num_ranks
            ),
        )
        trainer = build_trainer(config, RunDir.from_config(config.run), steps, [clock], 0)
        batches: Any = [batch] * (NUM_STEPS * trainer.accumulate_grad_batches)
        trainer.fit(module, DataLoader(batches, batch_size=None))
        clock.starts.append((time.time_ns(), NUM_STEPS, "end"))
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.name() == "[memory]"
    )
    least: dict[str, int] = {}
    for (step, phase), peak in peaks_by_phase(changes, clock.starts).items():
        if 0 < step < NUM_STEPS:
            least[phase] = min(least.get(phase, peak), peak)
    return least


def peaks_by_phase(
    changes: list[tuple[int, int]], starts: list[tuple[int, int, str]]
) -> dict[tuple[int, str], int]:
    """Return the largest sum of changes in each phase of each step.

    Args:
        changes: times and bytes, negative for a release; in order.
        starts: times, steps and names of phases, in order; the last one ends the others.
    """
    peaks: dict[tuple[int, str], int] = {}
    used, index = 0, -1
    for nanoseconds, num_bytes in changes:
        while index + 1 < len(starts) and starts[index + 1][0] <= nanoseconds:
            index += 1
            phase = starts[index][1:]
            peaks[phase] = max(peaks.get(phase, 0), used)
        used += num_bytes
        if index >= 0:
            phase = starts[index][1:]
            peaks[phase] = max(peaks.get(phase, 0), used)
    return peaks


def main(out: Path, sample_words: str, words: list[str]) -> None:
    """Measure, and write the result of rank 0."""
    peaks = measure(words, LongestSample(**json.loads(sample_words)))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        out.write_text(json.dumps(peaks))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
