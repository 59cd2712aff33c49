"""Write the checkpoints of a sharded run in the background, from a copy in CPU memory.

Start at `BackgroundSaver.save`. The copy is made by torch.distributed.checkpoint's stager, as in
its `async_save`; the writes of a run follow each other in one thread per rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from lit_hour.config.schema import Config
from lit_hour.errors import RunError
from lit_hour.training.checkpoints.checkpoint_io import ShardedContent, write_sharded
from lit_hour.training.distributed import CrossRankMax

log = logging.getLogger(__name__)


class BackgroundSaver:
    """Saves checkpoints without holding up the steps of training.

    A checkpoint is complete or absent, as without this class: its folder is renamed when all ranks
    have written their parts. Writes and removals are done one after the other, in the order of the
    calls, which is that of all ranks. After a failure nothing more is written or removed.

    The ranks coordinate the writes on a gloo group of their own, which connects CPUs, so that these
    do not get between the collectives of a step.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._group: Any = None  # a ProcessGroup
        self._thread: ThreadPoolExecutor | None = None
        self._stager: DefaultStager | None = None
        self._copy_step = -1
        self._copy: Mapping[str, Tensor] = {}
        self._latest: Future[None] | None = None  # the last write or removal that was submitted
        self._cross_rank_max = CrossRankMax()

    def save(self, path: Path, content: ShardedContent, is_on_gpu: bool = False) -> None:
        """Copy a checkpoint to CPU memory and write it in the background.

        Several checkpoints of the same step share one copy. At another step, this waits until those
        of the step before are written.

        Args:
            path: the folder to write.
            content: what to write on this rank.
            is_on_gpu: the tensors are on a GPU; the copy is in pinned memory then.

        Raises:
            RunError: a checkpoint before this one could not be written.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        if content.step != self._copy_step:
            self.wait()
            self._make_copy(content, is_on_gpu)
        copied = replace(content, tensors=self._copy)
        self._submit(partial(write_sharded, path, copied, self._config, self._group))

    def remove(self, action: Callable[[], None]) -> None:
        """Remove a checkpoint, after everything that was saved before is on disk."""

        def remove() -> None:
            try:
                action()
            except OSError as error:
                log.warning("An old checkpoint could not be removed: %s", error)

        self._submit(remove)

    def check(self) -> None:
        """Raise the error of a finished write, on all ranks at the same call. Waits for no write.

        Raises:
            RunError: a checkpoint could not be written. The previous one is intact.
        """
        if self._latest is None:
            return
        is_any_running = self._cross_rank_max.reduce(not self._latest.done())
        if not is_any_running:
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            RunError: a checkpoint could not be written. The previous one is intact.
        """
        latest, self._latest = self._latest, None
        if latest is not None:
            latest.result()

    def wait_and_log(self) -> None:
        """Wait until everything is written, and log an error instead of raising it."""
        try:
            self.wait()
        except (RunError, RuntimeError) as error:  # gloo's RuntimeError: a rank was lost
            log.warning("The checkpoint in progress was not written: %s", error)

    def close(self) -> None:
        """End the thread, after its writes, and free the copy."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._stager is not None:
            self._stager.close()
        self._thread = self._stager = None
        self._copy_step, self._copy = -1, {}

    def _make_copy(self, content: ShardedContent, is_on_gpu: bool) -> None:
        if self._stager is None:
            # The stager keeps the memory of the copy for the next one.
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=is_on_gpu,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=is_on_gpu,
                )
            )
            log.info(
                "Checkpoints are written in the background; each rank keeps a copy of %.1f MB.",
                staging_bytes(content) / 1e6,
            )
        copy = self._stager.stage(dict(content.tensors))
        assert isinstance(copy, dict)  # not a Future without use_async_staging
        self._copy, self._copy_step = copy, content.step

    def _submit(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._latest = self._thread.submit(_run_after, self._latest, task)


def staging_bytes(content: ShardedContent) -> int:
    """Return the size in bytes of the copy that this rank keeps in CPU memory."""
    shards = (
        tensor.to_local() if isinstance(tensor, DTensor) else tensor
        for tensor in content.tensors.values()
    )
    return sum(shard.nbytes for shard in shards)


def _run_after(previous: Future[None] | None, task: Callable[[], None]) -> None:
    if previous is not None:
        previous.result()  # raises again what has failed before
    task()
