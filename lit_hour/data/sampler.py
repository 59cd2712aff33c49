"""The steps of a run in, the positions of each micro-batch of one rank out. Nothing is remembered between two calls."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from lit_hour.errors import ConfigError


def micro_batches_per_step(samples_per_step: int, samples_per_batch: int, num_ranks: int) -> int:
    """How many micro-batches each rank computes in one optimizer step.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """
    unit = num_ranks * samples_per_batch
    if samples_per_step % unit:
        below = samples_per_step // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise ConfigError(
            f"data.samples_per_step={samples_per_step} is no multiple of {unit} "
            f"({num_ranks} ranks x data.samples_per_batch={samples_per_batch}): make it {near}"
        )
    return samples_per_step // unit


def slice_of_step(step_start: int, samples_per_step: int, samples_per_batch: int, rank: int, num_ranks: int) -> list[list[int]]:
    """The positions that one rank reads in the step that starts at `step_start`: a list for each micro-batch.

    The ranks take turns, a micro-batch each, so that all of them read along the same few shards.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """
    num_micro_batches = micro_batches_per_step(samples_per_step, samples_per_batch, num_ranks)
    starts = [step_start + (index * num_ranks + rank) * samples_per_batch for index in range(num_micro_batches)]
    return [list(range(start, start + samples_per_batch)) for start in starts]


class StepSampler(Sampler[list[int]]):
    """The batch sampler of one rank: the micro-batches of a run of `num_steps` steps, from `first_step` on.

    `start_position` is where that step starts. The length counts the steps before it too: Lightning holds the number of
    micro-batches done against it, and those of the steps before a resume are done.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """

    def __init__(
        self,
        start_position: int,
        num_steps: int,
        *,
        samples_per_step: int,
        samples_per_batch: int,
        first_step: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.micro_batches_per_step = micro_batches_per_step(samples_per_step, samples_per_batch, num_ranks)
        self.start_position = start_position
        self.num_steps = num_steps
        self.first_step = first_step
        self.samples_per_step = samples_per_step
        self.samples_per_batch = samples_per_batch
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return self.num_steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.num_steps - self.first_step):
            step_start = self.start_position + step * self.samples_per_step
            yield from slice_of_step(step_start, self.samples_per_step, self.samples_per_batch, self.rank, self.num_ranks)
