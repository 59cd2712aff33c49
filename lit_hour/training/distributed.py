"""Communication between ranks outside of Lightning's strategies, and the messages for a rank or worker that was lost."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lit_hour.errors import RunError

WORKER_LOST = "A data worker was killed, perhaps because memory ran out. Fewer data.num_workers need less memory"
RANK_LOST = "Another rank of this run has exited. Its output says why, unless it was killed"
CRASH_SIGNS = {  # text in an error of torch's -> its cause
    "DataLoader worker (pid": WORKER_LOST,
    "Connection reset by peer": RANK_LOST,
    "Connection closed by peer": RANK_LOST,
    "Broken pipe": RANK_LOST,
}


class CrossRankMax:
    """All-reduce MAX of one integer, on a gloo group of its own.

    The group connects CPUs, so a reduction neither waits for a GPU nor mixes with the gradients' collectives.
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
    """Return `WORKER_LOST` or `RANK_LOST`, or an empty string for an error with another cause."""
    if isinstance(error, RuntimeError):
        return next((message for sign, message in CRASH_SIGNS.items() if sign in str(error)), "")
    # A worker may die while it sends a batch; the pipe that breaks then belongs to the standard library.
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return WORKER_LOST if "multiprocessing" in Path(innermost.filename).parts else ""
