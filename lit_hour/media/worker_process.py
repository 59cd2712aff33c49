"""Processes that decode or encode videos, so that a codec that crashes takes nothing else along."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.context import ForkServerContext

_PRELOADED_MODULES = ["lit_hour.media.anyres", "lit_hour.media.video_reader"]


def worker_context() -> ForkServerContext:
    """Return the context in which worker processes start.

    Workers are forked from a server process that has imported the codecs once and opened no file,
    so that each starts in milliseconds. A Python process has one fork server, which imports what
    was named last before it started: all workers therefore use this function.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED_MODULES)
    return context


def exit_with_parent() -> None:
    """Make a worker process exit when its parent does, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()
