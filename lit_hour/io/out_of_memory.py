"""Explain an allocation that failed, on a CPU or GPU, in one line with what to do.

Entry point: `explain_out_of_memory`.
"""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lit_hour.errors import OutOfMemoryError

# Parts of the messages of RuntimeErrors: PyTorch's allocator on CPUs, the system, and CUDA.
SIGNS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: in Python, in PyTorch on any device, or in the system.

    `torch.OutOfMemoryError` is a RuntimeError, as is what PyTorch raises for a CPU.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def explain_out_of_memory(describe: Callable[[BaseException], str]) -> Iterator[None]:
    """Free the memory of the failed block, and raise an error that the user can act on.

    Args:
        describe: returns what was too large, and which settings bound it, for the original error.

    Raises:
        OutOfMemoryError: instead of an error for which `is_out_of_memory` is true.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        message = describe(error)
        traceback.clear_frames(error.__traceback__)  # their variables hold tensors
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemoryError(message) from None
