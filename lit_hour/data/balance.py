"""The mixed order in, steps of samples that take about equal work out: pure functions of the seed, without any state.

The order is cut into windows. Inside a window the samples are sorted by cost and cut into steps, and the steps are permuted.
So the ranks of one step wait for nobody, while over time training sees what the mixed order shows it.
`shards/README.md` states the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_hour.config.schema import Config
from lit_hour.data.index import SubjectRecord
from lit_hour.data.order import Whole, permutation

TOKENS_PER_PICTURE = 27 * 27  # of a picture that is not pooled, by the vision encoder of the published model
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
    def by(cls, config: Config) -> SampleCost:
        """The cost by the settings of a run."""
        memory, vision = config.model.memory, config.model.vision
        return cls(vision.grid**2 + 1, memory.min_frames, config.image.max_tiles)

    def of(self, record: SubjectRecord, num_asked: int) -> int:
        """The tokens of a sample that asks so many questions about a subject."""
        match record.kind:
            case "video":
                visual = max(record.num_frames, self.min_frames) * self.tokens_per_frame
            case "image":
                visual = (1 + self.max_tiles) * TOKENS_PER_PICTURE
            case "images" | "text":
                visual = max(record.num_frames, 1) * TOKENS_PER_PICTURE  # for a text a black picture goes the same way
        return visual + num_asked * TOKENS_PER_QUESTION


class BalancedOrder:
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

    def at(self, place: int) -> int:
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

    def _sort_window(self, number: int, window: int) -> Whole:
        """The positions of each step of a window of a pass, cheapest first: `(steps, samples)`."""
        first, end = (number * self.steps_per_pass + self._start_of(each) for each in (window, window + 1))
        positions = range(first * self.samples_per_step, end * self.samples_per_step)
        by_cost = positions.start + np.argsort(self._costs(positions), kind="stable")  # (samples of the window,)
        steps = by_cost.reshape(end - first, self.samples_per_step)  # (steps, samples)
        return steps[permutation(len(steps), "steps", self._seed, number, window)]  # (steps, samples)
