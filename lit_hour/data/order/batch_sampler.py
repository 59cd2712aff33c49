"""The steps of a run in, the samples of each micro-batch of one rank out. Nothing is remembered between two calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from lit_hour.data.order.sample_order import LengthBalancedOrder
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
            f"data.global_batch_size={samples_per_step} is no multiple of {unit} "
            f"({num_ranks} ranks x data.micro_batch_size={samples_per_batch}): make it {near}"
        )
    return samples_per_step // unit


def split_step_across_ranks(
    samples: Sequence[int], samples_per_batch: int, rank: int, num_ranks: int
) -> list[list[int]]:
    """Those samples of one step that one rank reads: a list for each micro-batch.

    The ranks take one sample each in turn, forwards and backwards in turn. Where the samples are sorted by cost, those that
    the ranks compute at the same time cost about the same, and no rank gets the dearer one every time.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """
    num_micro_batches = micro_batches_per_step(len(samples), samples_per_batch, num_ranks)
    turns = (rank, num_ranks - 1 - rank)
    taken = [
        samples[turn * num_ranks + turns[turn % 2]]
        for turn in range(num_micro_batches * samples_per_batch)
    ]
    return [
        taken[start : start + samples_per_batch]
        for start in range(0, len(taken), samples_per_batch)
    ]


class StepBatchSampler(Sampler[list[int]]):
    """The batch sampler of one rank: the micro-batches of a run of `num_steps` steps, from `first_step` on.

    `start_place` is where that step starts in the order. The length counts the steps before it too: Lightning holds the
    number of micro-batches done against it, and those of the steps before a resume are done.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """

    def __init__(
        self,
        order: LengthBalancedOrder,
        start_place: int,
        num_steps: int,
        *,
        samples_per_batch: int,
        first_step: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.micro_batches_per_step = micro_batches_per_step(
            order.samples_per_step, samples_per_batch, num_ranks
        )
        self.order = order
        self.start_position = start_place
        self.num_steps = num_steps
        self.first_step = first_step
        self.samples_per_batch = samples_per_batch
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return self.num_steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[int]]:
        samples_per_step = self.order.samples_per_step
        for step in range(self.num_steps - self.first_step):
            first = self.start_position + step * samples_per_step
            samples = [self.order[place] for place in range(first, first + samples_per_step)]
            yield from split_step_across_ranks(
                samples, self.samples_per_batch, self.rank, self.num_ranks
            )
