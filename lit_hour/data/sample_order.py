"""The order in which training reads samples, as pure functions of the seed and the position.

`training_samples.py` defines the samples of a shard and their costs. `SourceOrder` permutes the
samples of one source, `MixedOrder` interleaves the sources by weight, `LengthBalancedOrder` groups
samples of similar cost into steps, and `StepBatchSampler` gives each rank its part of every step.
An order is indexed by a position, which counts from 0 over all passes: it has no end and no state.
`shards/README.md` specifies the rules.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as count_from
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lit_hour.errors import ConfigError, ShardError
from lit_hour.io.sampling import seed_of

MIXTURE_BLOCK = 256  # positions within which samples of different sources are permuted

IntArray = NDArray[np.int64]
T = TypeVar("T")


def permutation(length: int, *seeds: int | str) -> IntArray:
    """Return a random permutation of `range(length)`, `(length,)`, that the seeds determine.

    NumPy guarantees the raw output of a bit generator across versions, but not that of
    `Generator.permutation`; Python's `hash` of a string differs between processes. Hence SHA-256,
    raw numbers and a stable sort.
    """
    seed = seed_of(json.dumps(seeds), 32)
    numbers = np.random.PCG64(seed).random_raw(length)  # (length,)
    return np.argsort(numbers, kind="stable")  # (length,)


class SourceOrder:
    """The order of one source's samples: every epoch contains each sample once.

    An epoch permutes the shards, then the samples inside each block of `shuffle_shards` shards, so
    that consecutive reads stay within a few files.

    Attributes:
        num_samples: samples in an epoch.
        name: of the source; two sources with the same shards get different orders.

    Raises:
        ShardError: the source has no sample.
    """

    def __init__(
        self, samples_per_shard: Sequence[int], shuffle_shards: int, seed: int, name: str
    ) -> None:
        self.samples_per_shard = np.array(samples_per_shard, np.int64)  # (shards,)
        self.num_samples = int(self.samples_per_shard.sum())
        self.shuffle_shards, self.seed, self.name = shuffle_shards, seed, name
        if self.num_samples == 0:
            raise ShardError(f"The source {name!r} has no sample. Its shards contain no question.")

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return the shard and the index of the sample inside it."""
        epoch, index = divmod(position, self.num_samples)
        _, block_starts = _shuffle_shards(self, epoch)
        block = int(block_starts.searchsorted(index, side="right")) - 1
        shard, sample = _shuffle_block(self, epoch, block)[index - block_starts[block]]
        return int(shard), int(sample)

    def samples_at(self, first: int, end: int) -> IntArray:
        """Return the samples at consecutive positions, `(positions,)`, numbered over all shards."""
        first_samples = np.cumsum(self.samples_per_shard) - self.samples_per_shard  # (shards,)
        parts = [np.empty(0, np.int64)]
        while first < end:
            epoch, index = divmod(first, self.num_samples)
            _, block_starts = _shuffle_shards(self, epoch)
            block = int(block_starts.searchsorted(index, side="right")) - 1
            pairs = _shuffle_block(self, epoch, block)[index - block_starts[block] :][: end - first]
            parts.append(first_samples[pairs[:, 0]] + pairs[:, 1])  # (samples,)
            first += len(pairs)
        return np.concatenate(parts)  # (positions,)


@lru_cache(maxsize=64)
def _shuffle_shards(order: SourceOrder, epoch: int) -> tuple[IntArray, IntArray]:
    """Return the permuted shards of an epoch `(shards,)`, and the block starts `(blocks,)`."""
    num_shards = len(order.samples_per_shard)
    shards = permutation(num_shards, "shards", order.seed, order.name, epoch)  # (shards,)
    samples = order.samples_per_shard[shards]  # (shards,)
    first_shards = np.arange(0, num_shards, order.shuffle_shards)  # (blocks,)
    block_sizes = np.add.reduceat(samples, first_shards)  # (blocks,)
    return shards, np.cumsum(block_sizes) - block_sizes


@lru_cache(maxsize=64)
def _shuffle_block(order: SourceOrder, epoch: int, block: int) -> IntArray:
    """Return the (shard, sample) pairs of a block in order: `(samples, 2)`."""
    first = block * order.shuffle_shards
    shards = _shuffle_shards(order, epoch)[0][first : first + order.shuffle_shards]
    counts = order.samples_per_shard[shards]  # (shards,)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)  # (samples,)
    pairs = np.stack([np.repeat(shards, counts), np.arange(len(firsts)) - firsts], axis=1)
    return pairs[permutation(len(pairs), "samples", order.seed, order.name, epoch, block)]


class MixedOrder:
    """The order of several sources' samples, evenly interleaved.

    One pass takes round(weight * samples) samples from each source, at least one. The next pass
    continues in each source where this one stopped: a weight of 0.5 takes the other half then, and
    2 takes each sample twice per pass. A source starts at its position round(start * samples).

    Attributes:
        num_samples: samples in one pass over all sources.
        seed: of all permutations.

    Raises:
        ConfigError: there is no source.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceOrder],
        weights: Mapping[str, float],
        seed: int,
        starts: Mapping[str, float] | None = None,
    ) -> None:
        if not sources:
            raise ConfigError(
                "data.sources has no source with a weight above 0."
                " Name a folder of shards: data.sources.NAME.shards=FOLDER."
            )
        self.names = tuple(sorted(sources))
        self.sources = tuple(sources[name] for name in self.names)
        self.samples_per_pass = tuple(
            max(1, round(weights[name] * sources[name].num_samples)) for name in self.names
        )
        self.starts = tuple(
            round((starts or {}).get(name, 0.0) * sources[name].num_samples) for name in self.names
        )
        self.seed = seed
        self.num_samples = sum(self.samples_per_pass)

    def __getitem__(self, position: int) -> tuple[str, int, int]:
        """Return the source, the shard, and the index of the sample inside it."""
        pass_index, index = divmod(position, self.num_samples)
        block, index = divmod(index, MIXTURE_BLOCK)
        source, offset = _mix_block(self.samples_per_pass, self.seed, pass_index, block)[index]
        taken_before = pass_index * self.samples_per_pass[source]
        shard, sample = self.sources[source][self.starts[source] + taken_before + int(offset)]
        return self.names[source], shard, sample

    def samples_at(self, first: int, end: int) -> tuple[IntArray, IntArray]:
        """Return the samples at consecutive positions of one pass.

        Returns:
            The index of each sample's source in `names`, and its number over all shards of it,
            both `(positions,)`.
        """
        pass_index, first = divmod(first, self.num_samples)
        end -= pass_index * self.num_samples
        blocks = range(first // MIXTURE_BLOCK, -(-end // MIXTURE_BLOCK))
        pairs = np.concatenate(
            [_mix_block(self.samples_per_pass, self.seed, pass_index, block) for block in blocks]
        )[first - blocks.start * MIXTURE_BLOCK :][: end - first]  # (positions, 2)
        sources = pairs[:, 0]  # (positions,)
        samples = np.empty_like(sources)  # (positions,)
        for source, order in enumerate(self.sources):
            is_source = sources == source  # (positions,)
            if is_source.any():
                start = self.starts[source] + pass_index * self.samples_per_pass[source]
                start += int(pairs[is_source, 1][0])  # the offsets of a source are consecutive
                samples[is_source] = order.samples_at(start, start + int(is_source.sum()))
        return sources, samples


@lru_cache(maxsize=64)
def _mix_block(
    samples_per_pass: tuple[int, ...], seed: int, pass_index: int, block: int
) -> IntArray:
    """Return the source and the offset in its share of the pass: `(positions, 2)`."""
    start = block * MIXTURE_BLOCK
    before = _count_taken(start, samples_per_pass)
    after = _count_taken(min(start + MIXTURE_BLOCK, sum(samples_per_pass)), samples_per_pass)
    counts = [end - first for first, end in zip(before, after, strict=True)]
    sources = np.repeat(np.arange(len(counts)), counts)  # (positions,)
    sources = sources[permutation(len(sources), "mixture", seed, pass_index, block)]  # (positions,)
    offsets = np.empty_like(sources)  # (positions,)
    for source, count in enumerate(counts):
        offsets[sources == source] = before[source] + np.arange(count)  # (count,)
    return np.stack([sources, offsets], axis=1)  # (positions, 2)


def _count_taken(num_positions: int, samples_per_pass: tuple[int, ...]) -> list[int]:
    """Return how many samples each source contributes to the first positions of a pass.

    Each source in turn gets its share, rounded down, of the positions that the sources before it
    left. The positions left never decrease as `num_positions` grows, so no count does, and at the
    end of the pass every count is complete.
    """
    positions_left, samples_left = num_positions, sum(samples_per_pass)
    taken = []
    for samples in samples_per_pass:
        taken.append(positions_left * samples // samples_left)
        positions_left, samples_left = positions_left - taken[-1], samples_left - samples
    return taken


class LengthBalancedOrder:
    """The order of training, permuted so that the samples of a step cost about the same.

    The steps of a pass are cut into as few windows of at most `max_window_steps` steps as possible,
    all about equally long. Inside a window the samples are sorted by cost and cut into steps, and
    the steps are permuted. So the ranks of a step finish together, and over a window training sees
    the same samples as without balancing.

    Attributes:
        samples_per_step: samples in each step.
        steps_per_pass: steps that take one pass over the samples; after them the windows start
            anew.
    """

    def __init__(
        self,
        order: MixedOrder,
        costs: Mapping[str, Sequence[IntArray]],
        *,
        samples_per_step: int,
        max_window_steps: int,
    ) -> None:
        """Initialize the order.

        Args:
            order: the mixed order.
            costs: of the samples, `(samples,)` for each shard of each source.
            samples_per_step: samples in each step.
            max_window_steps: 1 keeps the mixed order.
        """
        self.samples_per_step = samples_per_step
        self.steps_per_pass = -(-order.num_samples // samples_per_step)
        self._order, self._costs = order, costs
        self._keeps_order = max_window_steps == 1
        num_windows = -(-self.steps_per_pass // max_window_steps)
        self._window_starts = [
            window * self.steps_per_pass // num_windows for window in range(num_windows + 1)
        ]  # steps of a pass
        self._cached_window = lru_cache(maxsize=2)(self._sort_window)

    def micro_batches_per_step(self, micro_batch_size: int, num_ranks: int) -> int:
        """Return how many micro-batches each rank computes in one step; see the function."""
        return micro_batches_per_step(self.samples_per_step, micro_batch_size, num_ranks)

    def iter_steps(self, position: int) -> Iterator[list[list[int]]]:
        """Yield the steps from a position on: for each sample a list of its mixed position."""
        for first in count_from(position, self.samples_per_step):
            yield [[self[index]] for index in range(first, first + self.samples_per_step)]

    def __getitem__(self, position: int) -> int:
        """Return the position in the mixed order."""
        if self._keeps_order:
            return position
        step, index = divmod(position, self.samples_per_step)
        pass_index, step = divmod(step, self.steps_per_pass)
        window = bisect_right(self._window_starts, step) - 1
        steps = self._cached_window(pass_index, window)  # (steps, samples)
        return int(steps[step - self._window_starts[window], index])

    def _sort_window(self, pass_index: int, window: int) -> IntArray:
        """Return the mixed positions of each step of a window: `(steps, samples)`."""
        first, end = (
            (pass_index * self.steps_per_pass + start) * self.samples_per_step
            for start in self._window_starts[window : window + 2]
        )
        samples = map(self._order.__getitem__, range(first, end))
        costs = [self._costs[source][shard][sample] for source, shard, sample in samples]
        by_cost = first + np.argsort(np.array(costs), kind="stable")  # (samples of the window,)
        steps = by_cost.reshape(-1, self.samples_per_step)  # (steps, samples)
        return steps[permutation(len(steps), "steps", self._order.seed, pass_index, window)]


def micro_batches_per_step(samples_per_step: int, micro_batch_size: int, num_ranks: int) -> int:
    """Return how many micro-batches each rank computes in one optimizer step.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """
    unit = num_ranks * micro_batch_size
    if samples_per_step % unit:
        below = samples_per_step // unit * unit
        choices = f"{below} or {below + unit}" if below else f"{unit}"
        raise ConfigError(
            f"data.global_batch_size={samples_per_step} must be a multiple of {unit}"
            f" ({num_ranks} ranks x data.micro_batch_size={micro_batch_size}). Set it to {choices}."
        )
    return samples_per_step // unit


def split_step_across_ranks(
    samples: Sequence[T], micro_batch_size: int, rank: int, num_ranks: int
) -> list[list[T]]:
    """Return the micro-batches of one step that one rank computes, of samples or of anything else.

    The ranks take one sample each in turn, in ascending and descending order of the ranks
    alternately. If the samples are sorted by cost, the ranks compute samples of about the same cost
    at the same time, and no rank always gets the most expensive one.

    Raises:
        ConfigError: the ranks cannot share the samples of a step evenly.
    """
    num_micro_batches = micro_batches_per_step(len(samples), micro_batch_size, num_ranks)
    own = [
        samples[turn * num_ranks + (rank if turn % 2 == 0 else num_ranks - 1 - rank)]
        for turn in range(num_micro_batches * micro_batch_size)
    ]
    return [own[start : start + micro_batch_size] for start in range(0, len(own), micro_batch_size)]


class StepOrder(Protocol):
    """An order of training; its steps consist of parts: of samples, or of batches of samples."""

    def micro_batches_per_step(self, micro_batch_size: int, num_ranks: int) -> int:
        """Return how many micro-batches each rank computes in one optimizer step.

        Raises:
            ConfigError: the ranks cannot share the parts of a step evenly.
        """

    def iter_steps(self, position: int) -> Iterator[list[list[int]]]:
        """Yield the steps from a position on: the mixed positions of each of their parts."""


@dataclass(eq=False)
class StepBatchSampler(Sampler[list[int]]):
    """Batch sampler of one rank: mixed positions of each micro-batch, from `first_step` on.

    Its length includes the steps before `first_step`, because Lightning compares it with the number
    of micro-batches since the start of the run.

    Attributes:
        order: of training.
        first_position: in the order, at which `first_step` starts.
        num_steps: of the whole run.
        micro_batch_size: parts of a step in a micro-batch.
        steps_per_group: consecutive steps that have the same samples.
    """

    order: StepOrder
    first_position: int
    num_steps: int
    micro_batch_size: int = 1
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1
    steps_per_group: int = 1

    def __len__(self) -> int:
        return self.num_steps * self.order.micro_batches_per_step(
            self.micro_batch_size, self.num_ranks
        )

    def __iter__(self) -> Iterator[list[int]]:
        num_passed = self.first_step % self.steps_per_group  # steps of the first group
        groups = self.order.iter_steps(self.first_position)
        steps = (step for step in groups for _ in range(self.steps_per_group))
        end = num_passed + self.num_steps - self.first_step
        for step in islice(steps, num_passed, end):
            for micro_batch in split_step_across_ranks(
                step, self.micro_batch_size, self.rank, self.num_ranks
            ):
                yield [position for part in micro_batch for position in part]
