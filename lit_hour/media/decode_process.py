"""Processes that decode files, so that a decoder that hangs or crashes takes nothing else along."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

_PRELOADED_MODULES = ["lit_hour.media.anyres", "lit_hour.media.frame_sampling"]


def decode_context() -> ForkServerContext:
    """Return the context in which decoding processes start.

    They are forked from a server process that has imported the decoders once and opened no file,
    so that each starts in milliseconds. A Python process has one fork server, which imports what
    was named last before it starts: all decoding processes therefore use this function.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED_MODULES)
    return context
