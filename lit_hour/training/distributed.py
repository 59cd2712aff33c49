"""An all-reduce outside of Lightning's strategies, and messages for a lost rank or data worker."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lit_hour.errors import RunError

WORKER_LOST = (
    "A data worker was killed, perhaps for lack of memory. Fewer data.num_workers need less of it"
)
RANK_LOST = "Another rank of this run has exited. Its output says why, unless it was killed"
CRASH_SIGNS = {  # messages by a part of torch's error text
    "DataLoader worker (pid": WORKER_LOST,
    "Connection reset by peer": RANK_LOST,
    "Connection closed by peer": RANK_LOST,
    "Broken pipe": RANK_LOST,
}


class CrossRankMax:
    """All-reduce MAX of one integer, on a gloo group of its own.

    The group connects CPUs, so a reduction neither waits for a GPU nor gets between the collectives
    of the gradients.
    """

    _group: Any = None

    def reduce(self, number: int) -> int:
        """Return the largest `number` of all ranks. Every rank has to call this equally often.

        The first call creates the group. A process alone gets its own number back.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return number
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        numbers = torch.tensor([int(number)])  # (1,)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return int(numbers)


@contextmanager
def explain_crashes(
    advice: str = "Start the run again: it resumes from its newest checkpoint",
) -> Iterator[None]:
    """Replace the error that a killed worker or rank causes in this process by a one-line message.

    Args:
        advice: what to do next; ends the message.

    Raises:
        RunError: a rank or a data worker died while this process waited for it.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if message := classify_crash(error):
            raise RunError(f"{message}. {advice}") from error
        raise


def classify_crash(error: RuntimeError | OSError | EOFError) -> str:
    """Return `WORKER_LOST` or `RANK_LOST`, or an empty string for any other error."""
    if isinstance(error, RuntimeError):
        return next((text for sign, text in CRASH_SIGNS.items() if sign in str(error)), "")
    # A worker that dies while it sends a batch breaks a pipe of the standard library.
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return WORKER_LOST if "multiprocessing" in Path(innermost.filename).parts else ""
