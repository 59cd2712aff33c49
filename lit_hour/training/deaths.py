"""The error that a process gets when another one of the run was killed -> what happened, in words and without a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_hour.errors import RunError

A_WORKER_DIED = "a process that reads data was killed, perhaps because memory ran out: fewer data.num_workers take less"
A_RANK_DIED = "another rank of this run has ended; what it printed says why, unless it was killed"
SIGNS = {  # words of torch's in such an error
    "DataLoader worker (pid": A_WORKER_DIED,
    "Connection reset by peer": A_RANK_DIED,
    "Connection closed by peer": A_RANK_DIED,
    "Broken pipe": A_RANK_DIED,
}


@contextmanager
def explained_deaths(advice: str = "Started again, the run goes on from its newest checkpoint") -> Iterator[None]:
    """Tell what the death of another process means, and what to do then.

    Raises:
        RunError: a rank or a data worker died while this process waited for it.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if words := who_died(error):
            raise RunError(f"{words}. {advice}") from error
        raise


def who_died(error: RuntimeError | OSError | EOFError) -> str:
    """In words; empty when the error is about something else."""
    if isinstance(error, RuntimeError):
        return next((words for sign, words in SIGNS.items() if sign in str(error)), "")
    # a worker may die while it hands over a batch; the pipe that breaks then is the standard library's
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return A_WORKER_DIED if "multiprocessing" in Path(innermost.filename).parts else ""
