"""A place in the order of the data in, the sample that comes there out: pure functions of the seed, without any state.

A sample is a subject with some consecutive questions about it. `SourceOrder` orders the samples of one folder of shards,
`MixedOrder` interleaves several of them by weight. `shards/README.md` states the rule.


The mixed order in, steps of samples that take about equal work out: pure functions of the seed, without any state.

The order is cut into windows. Inside a window the samples are sorted by cost and cut into steps, and the steps are permuted.
So the ranks of one step wait for nobody, while over time training sees what the mixed order shows it.
`shards/README.md` states the rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_hour.config.schema import Config
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.errors import ConfigError, ShardError

MIXED_BLOCK = (
    256  # positions within which the samples of several sources are shuffled among each other
)
IntArray = NDArray[np.int64]


def permutation(length: int, *seeds: int | str) -> IntArray:
    """A random order of `range(length)`, `(length,)`, the same wherever and whenever the seeds are the same.

    NumPy promises the raw numbers of a bit generator for ever, but not what `Generator.permutation` makes of them, and
    Python's own hash of a text differs between processes. Hence SHA-256, raw numbers, and a stable sort.
    """
    digest = hashlib.sha256(json.dumps(seeds).encode()).digest()
    numbers = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(length)  # (length,)
    return np.argsort(numbers, kind="stable")  # (length,)


@dataclass(
    frozen=True, eq=False
)  # told apart by identity: a hash over all shards at each call would take longer than the call
class SourceOrder:
    """The endless order of one source's samples: every epoch has each sample once.

    An epoch shuffles the shards, then the samples inside each block of `shuffle_shards` of them, so that reading stays
    within a few files at a time.

    Attributes:
        samples_per_shard: number of samples in each shard.
        shuffle_shards: shards in a block.
        seed: of the run.
        name: of the source; two sources with the same shards get different orders.

    Raises:
        ShardError: there is no sample at all.
    """

    samples_per_shard: tuple[int, ...]
    shuffle_shards: int
    seed: int
    name: str

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ShardError(
                f"the source {self.name!r} holds no sample: its shards have no question"
            )

    def __len__(self) -> int:
        return self._num_samples

    @cached_property
    def _num_samples(self) -> int:
        return sum(self.samples_per_shard)

    def __getitem__(self, place: int) -> tuple[int, int]:
        """The shard and the sample within it that come at this place, which counts from 0 over all epochs."""
        epoch, rest = divmod(place, len(self))
        _, block_starts = _epoch_blocks(self, epoch)
        block = int(block_starts.searchsorted(rest, side="right")) - 1
        shard, sample = _block_samples(self, epoch, block)[rest - block_starts[block]]
        return int(shard), int(sample)


@lru_cache(maxsize=64)
def _epoch_blocks(order: SourceOrder, epoch: int) -> tuple[IntArray, IntArray]:
    """The shards in the order of an epoch `(shards,)`, and the place in the epoch where each block starts `(blocks,)`."""
    shards = permutation(
        len(order.samples_per_shard), "shards", order.seed, order.name, epoch
    )  # (shards,)
    samples = np.array(order.samples_per_shard)[shards]  # (shards,)
    block_sizes = np.add.reduceat(
        samples, np.arange(0, len(samples), order.shuffle_shards)
    )  # (blocks,)
    return shards, np.cumsum(block_sizes) - block_sizes


@lru_cache(maxsize=64)
def _block_samples(order: SourceOrder, epoch: int, block: int) -> IntArray:
    """The shard, and the sample within it, at each place of a block of an epoch: `(samples in block, 2)`."""
    shards = _epoch_blocks(order, epoch)[0][
        block * order.shuffle_shards : (block + 1) * order.shuffle_shards
    ]
    places = np.array(
        [(shard, sample) for shard in shards for sample in range(order.samples_per_shard[shard])]
    )  # (samples, 2)
    return places[
        permutation(len(places), "samples", order.seed, order.name, epoch, block)
    ]  # (samples in block, 2)


class MixedOrder:
    """The endless order of several sources' samples, interleaved evenly.

    One pass takes round(weight * samples) from each source, at least one; a source goes on in the next pass where it
    stopped in this one. So a weight of 0.5 takes the other half the next time, and 2 takes each sample twice in a pass.
    A source begins at its place round(start * samples).
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
                "data.sources has no source with a weight above 0: name a folder of shards with data.sources.NAME.shards=FOLDER"
            )
        self.names = tuple(sorted(sources))
        self.sources = tuple(sources[name] for name in self.names)
        self.samples_per_pass = tuple(
            max(1, round(weights[name] * len(sources[name]))) for name in self.names
        )
        self.starts = tuple(
            round((starts or {}).get(name, 0.0) * len(sources[name])) for name in self.names
        )
        self.seed = seed
        self._num_samples = sum(self.samples_per_pass)

    def __len__(self) -> int:
        """Samples in one pass over all sources."""
        return self._num_samples

    def __getitem__(self, position: int) -> tuple[str, int, int]:
        """The source, the shard and the sample within it that come at this position, which counts from 0 over all passes."""
        number, rest = divmod(position, len(self))
        block, index = divmod(rest, MIXED_BLOCK)
        source, place_in_pass = _mixed_block(self.samples_per_pass, self.seed, number, block)[index]
        place = self.starts[source] + number * self.samples_per_pass[source] + int(place_in_pass)
        return self.names[source], *self.sources[source][place]


@lru_cache(maxsize=64)
def _mixed_block(samples_per_pass: tuple[int, ...], seed: int, number: int, block: int) -> IntArray:
    """For each position of a block, the source and the place in that source's share of the pass: `(positions, 2)`."""
    start = block * MIXED_BLOCK
    taken = _taken_before(start, samples_per_pass)
    taken_after = _taken_before(min(start + MIXED_BLOCK, sum(samples_per_pass)), samples_per_pass)
    counts = [after - before for after, before in zip(taken_after, taken, strict=True)]
    sources = np.repeat(np.arange(len(counts)), counts)  # (positions,)
    sources = sources[permutation(len(sources), "mixture", seed, number, block)]  # (positions,)
    places = np.empty_like(sources)  # (positions,)
    for source, count in enumerate(counts):
        places[sources == source] = taken[source] + np.arange(count)  # (count,)
    return np.stack([sources, places], axis=1)  # (positions, 2)


def _taken_before(position: int, samples_per_pass: tuple[int, ...]) -> list[int]:
    """How many samples each source gives to the first `position` places of a pass, in exact whole numbers.

    Each source in turn gets its share of the places that the sources before it left. The places left never shrink as the
    position grows, so no count ever does, and at the end of the pass every count is full.
    """
    places_left, samples_left = position, sum(samples_per_pass)
    taken = []
    for samples in samples_per_pass:
        taken.append(places_left * samples // samples_left)
        places_left, samples_left = places_left - taken[-1], samples_left - samples
    return taken


TOKENS_PER_IMAGE = (
    27 * 27
)  # of a picture that is not pooled, by the vision encoder of the published model
TOKENS_PER_QUESTION = 60  # with its answer; the index does not know the words


@dataclass(frozen=True)
class SampleCost:
    """The work that a sample makes, estimated from the index alone: the tokens of its repository and of its text.

    Attributes:
        tokens_per_frame: of a video.
        min_frames: that a shorter video is repeated up to.
        max_tiles: that a picture is shrunk to.
    """

    tokens_per_frame: int
    min_frames: int
    max_tiles: int

    @classmethod
    def from_config(cls, config: Config) -> SampleCost:
        """The cost by the settings of a run."""
        memory, vision = config.model.memaug, config.model.vision
        return cls(vision.grid**2 + 1, memory.min_frames, config.image.max_tiles)

    def num_tokens(self, record: IndexEntry, num_asked: int) -> int:
        """The tokens of a sample that asks so many questions about a subject."""
        match record.modality:
            case "video":
                visual = max(record.num_frames, self.min_frames) * self.tokens_per_frame
            case "image":
                visual = (1 + self.max_tiles) * TOKENS_PER_IMAGE
            case "images" | "text":
                visual = (
                    max(record.num_frames, 1) * TOKENS_PER_IMAGE
                )  # for a text a black picture goes the same way
        return visual + num_asked * TOKENS_PER_QUESTION


class LengthBalancedOrder:
    """The endless order in which training takes samples: place -> position in the mixed order.

    Every `steps_per_pass` steps have each position of theirs once. Those are cut into as few windows as `balance_steps`
    allows, all about equally long, so that a pass ends with a window like the others.

    Attributes:
        samples_per_step: places of one step.
        steps_per_pass: steps after which the windows start anew; together they take one pass over the samples.
    """

    def __init__(
        self,
        costs: Callable[[range], NDArray[np.int64]],
        num_samples: int,
        *,
        samples_per_step: int,
        balance_steps: int,
        seed: int,
    ) -> None:
        """Args: costs: of the samples at positions of the mixed order; num_samples: of one pass over it."""
        self.samples_per_step = samples_per_step
        self.steps_per_pass = -(-num_samples // samples_per_step)
        self._num_windows = -(-self.steps_per_pass // balance_steps)
        self._is_plain = balance_steps == 1
        self._costs = costs
        self._seed = seed
        self._window = lru_cache(maxsize=2)(self._sort_window)

    def __getitem__(self, place: int) -> int:
        """The position of the sample that comes at this place, which counts from 0 over the whole run."""
        if self._is_plain:
            return place
        step, index = divmod(place, self.samples_per_step)
        number, step_of_pass = divmod(step, self.steps_per_pass)
        window = ((step_of_pass + 1) * self._num_windows - 1) // self.steps_per_pass
        return int(self._window(number, window)[step_of_pass - self._start_of(window), index])

    def _start_of(self, window: int) -> int:
        """The step of a pass at which a window starts."""
        return window * self.steps_per_pass // self._num_windows

    def _sort_window(self, number: int, window: int) -> IntArray:
        """The positions of each step of a window of a pass, cheapest first: `(steps, samples)`."""
        first, end = (
            number * self.steps_per_pass + self._start_of(each) for each in (window, window + 1)
        )
        positions = range(first * self.samples_per_step, end * self.samples_per_step)
        by_cost = positions.start + np.argsort(
            self._costs(positions), kind="stable"
        )  # (samples of the window,)
        steps = by_cost.reshape(end - first, self.samples_per_step)  # (steps, samples)
        return steps[
            permutation(len(steps), "steps", self._seed, number, window)
        ]  # (steps, samples)
