"""Batches of a budget of tokens: which samples make which micro-batch, in any number of ranks.

`TokenBatchOrder` is a pure function of the mixed order and the lengths of the samples. A step has a
fixed number of batches over all ranks; how many samples these have varies. `StepBatchSampler` gives
each rank its batches. `shards/README.md` specifies the rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lit_hour.data.sample_lengths import SampleLengths
from lit_hour.data.sample_order import IntArray, MixedOrder, permutation
from lit_hour.errors import ConfigError

UNSORTED_WINDOW_STEPS = 100  # if the order is kept; only the end of a window cuts a batch short


class _Window(NamedTuple):
    """Consecutive steps of a pass.

    Attributes:
        positions: `(samples,)` in the mixed order, sorted by length.
        bounds: `(steps, batches + 1)`, where in `positions` the batches of each step begin and end.
        starts: `(steps + 1,)`, samples of all passes before each step, and after the last one.
    """

    positions: IntArray
    bounds: IntArray
    starts: IntArray


class TokenBatchOrder:
    """The steps of training, each a fixed number of batches that keep a budget of tokens.

    A pass over the samples is cut into windows of about `max_window_steps` steps. Inside a window
    the samples are sorted by length, cut into batches that the budget allows, and the batches into
    steps, which are permuted. Every pass has each of its samples once. A position is the number of
    samples of all steps before.

    Attributes:
        batches_per_step: over all ranks.
    """

    def __init__(
        self,
        order: MixedOrder,
        lengths: Mapping[str, SampleLengths],
        *,
        tokens_per_batch: int,
        batches_per_step: int,
        max_window_steps: int,
        counts_padding: bool,
    ) -> None:
        """Initialize the order.

        Args:
            order: the mixed order.
            lengths: of the samples of each source, in the order of its shards.
            tokens_per_batch: the budget. A longer sample is a batch of its own.
            batches_per_step: over all ranks.
            max_window_steps: 1 keeps the mixed order.
            counts_padding: whether every text counts as much as the longest of its batch.

        Raises:
            ConfigError: one pass has fewer samples than a step has batches.
        """
        self.batches_per_step = batches_per_step
        self._order, self._lengths = order, lengths
        self._budget, self._counts_padding = tokens_per_batch, counts_padding
        self._keeps_order = max_window_steps == 1
        num_samples = order.num_samples
        if num_samples < batches_per_step:
            raise ConfigError(
                f"One pass over data.sources has {num_samples} samples, but a step has"
                f" data.batches_per_step={batches_per_step} batches. Use fewer, or more data."
            )
        window_steps = UNSORTED_WINDOW_STEPS if self._keeps_order else max_window_steps
        window_tokens = window_steps * batches_per_step * tokens_per_batch
        num_windows = min(-(-self._tokens_per_pass() // window_tokens), num_samples)
        self._window_starts = [
            window * num_samples // num_windows for window in range(num_windows + 1)
        ]  # samples of a pass
        self._cached_window = lru_cache(maxsize=2)(self._build_window)
        self._cached_starts = lru_cache(maxsize=None)(self._step_starts)

    @property
    def steps_per_pass(self) -> int:
        """Steps of the first pass over the samples; building all its windows takes seconds."""
        return sum(
            len(self._cached_starts(0, window)) - 1
            for window in range(len(self._window_starts) - 1)
        )

    def micro_batches_per_step(self, micro_batch_size: int, num_ranks: int) -> int:
        """Return how many batches each rank computes in one step; a micro-batch is one of them."""
        return batches_per_rank(self.batches_per_step, num_ranks)

    def iter_steps(self, position: int) -> Iterator[list[list[int]]]:
        """Yield the steps from a position on: the mixed positions of each of their batches."""
        for pass_index, window, first_step in self._iter_windows(position):
            positions, bounds, _ = self._cached_window(pass_index, window)
            for step in bounds[first_step:].tolist():
                yield [positions[first:end].tolist() for first, end in pairwise(step)]

    def position_after(self, position: int, num_steps: int) -> int:
        """Return the position after some steps from a position on."""
        for pass_index, window, first_step in self._iter_windows(position):
            starts = self._cached_starts(pass_index, window)  # (steps + 1,)
            if num_steps < len(starts) - first_step:
                return int(starts[first_step + num_steps])
            num_steps -= len(starts) - 1 - first_step
        raise AssertionError("an order has no end")

    def _iter_windows(self, position: int) -> Iterator[tuple[int, int, int]]:
        """Yield pass, window and first step of each window from a position on, without end.

        If no step starts at the position, which is that of another order, the next one is first.
        """
        pass_index, index = divmod(position, self._order.num_samples)
        window = bisect_right(self._window_starts, index) - 1
        first_step = int(self._cached_starts(pass_index, window).searchsorted(position))
        while True:
            yield pass_index, window, first_step
            window, first_step = window + 1, 0
            if window == len(self._window_starts) - 1:
                pass_index, window = pass_index + 1, 0

    def _step_starts(self, pass_index: int, window: int) -> IntArray:
        return self._cached_window(pass_index, window).starts

    def _build_window(self, pass_index: int, window: int) -> _Window:
        """Sort the samples of a window, cut them into batches and steps, and permute the steps."""
        first, end = (
            pass_index * self._order.num_samples + start
            for start in self._window_starts[window : window + 2]
        )
        lengths = self._lengths_at(first, end)
        order = np.arange(end - first)  # (samples,)
        if not self._keeps_order:
            main = lengths.longest if self._counts_padding else lengths.total  # (samples,)
            order = np.lexsort((lengths.cost, main))
        ends = fill_batches(lengths[order], self._budget, self._counts_padding)  # (batches,)
        ends = split_batches(ends, self.batches_per_step)  # (batches,)
        bounds = np.concatenate([[0], ends])  # (batches + 1,)
        steps = np.lib.stride_tricks.sliding_window_view(bounds, self.batches_per_step + 1)
        steps = steps[:: self.batches_per_step]  # (steps, batches + 1)
        if not self._keeps_order:
            seeds = ("batches", self._order.seed, pass_index, window)
            steps = steps[permutation(len(steps), *seeds)]  # (steps, batches + 1)
        num_samples = steps[:, -1] - steps[:, 0]  # (steps,)
        starts = first + np.concatenate([[0], np.cumsum(num_samples)])  # (steps + 1,)
        return _Window(first + order, steps, starts)

    def _lengths_at(self, first: int, end: int) -> SampleLengths:
        """Return the lengths of the samples at consecutive mixed positions."""
        sources, samples = self._order.samples_at(first, end)  # (positions,), (positions,)
        is_source = [sources == source for source in range(len(self._order.names))]
        parts = [
            self._lengths[name][samples[mask]]
            for name, mask in zip(self._order.names, is_source, strict=True)
        ]
        by_source = np.concatenate([mask.nonzero()[0] for mask in is_source])  # (positions,)
        return SampleLengths.concatenate(parts)[by_source.argsort()]

    def _tokens_per_pass(self) -> int:
        """Return the tokens of a pass by the mean of each source; no sample exceeds the budget."""
        means = [np.minimum(self._lengths[name].total, self._budget) for name in self._order.names]
        return sum(
            num_samples * int(tokens.sum()) // len(tokens)
            for num_samples, tokens in zip(self._order.samples_per_pass, means, strict=True)
        )


def fill_batches(lengths: SampleLengths, budget: int, counts_padding: bool) -> IntArray:
    """Cut samples into batches that the budget allows, in order; a longer one is alone.

    Returns:
        The sample before which each batch ends, `(batches,)`.
    """
    ends, num_texts, longest, total = [], 0, 0, 0
    columns = (lengths.num_texts, lengths.longest, lengths.total)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for index, (sample_texts, sample_longest, sample_total) in enumerate(rows):
        num_texts, total = num_texts + sample_texts, total + sample_total
        longest = max(longest, sample_longest)
        if num_texts > sample_texts and budget < (num_texts * longest if counts_padding else total):
            ends.append(index)
            num_texts, longest, total = sample_texts, sample_longest, sample_total
    return np.array([*ends, len(lengths.total)])  # (batches,)


def split_batches(ends: IntArray, unit: int) -> IntArray:
    """Split the batches with most samples until their number is a multiple of `unit`.

    If each batch has one sample, empty ones are appended.

    Args:
        ends: the sample before which each batch ends, `(batches,)`.
        unit: at least 1.
    """
    bounds = np.concatenate([[0], ends])  # (batches + 1,)
    for _ in range(-len(ends) % unit):
        sizes = np.diff(bounds)  # (batches,)
        largest = int(sizes.argmax())
        half = bounds[largest] + sizes[largest] // 2
        if sizes[largest] > 1:
            bounds = np.insert(bounds, largest + 1, half)
        else:
            bounds = np.append(bounds, bounds[-1])
    return bounds[1:]


def batches_per_rank(batches_per_step: int, num_ranks: int) -> int:
    """Return how many batches each rank computes in one optimizer step.

    Raises:
        ConfigError: the ranks cannot share the batches of a step evenly.
    """
    if batches_per_step % num_ranks:
        below = batches_per_step // num_ranks * num_ranks
        choices = f"{below} or {below + num_ranks}" if below else f"{num_ranks}"
        raise ConfigError(
            f"data.batches_per_step={batches_per_step} must be a multiple of {num_ranks}, the"
            f" number of ranks. Set it to {choices}."
        )
    return batches_per_step // num_ranks
