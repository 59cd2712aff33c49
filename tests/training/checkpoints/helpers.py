"""Checkpoints of a sharded run without a model, and a rank that may be killed while it saves."""

from collections.abc import Callable, Mapping

import torch.distributed as dist
from torch import Tensor

from lit_hour.training.checkpoints.checkpoint_io import ShardedContent
from tests.helpers.fork import FORK


def content_of(weights: Mapping[str, Tensor], step: int) -> ShardedContent:
    """Return the checkpoint of a model with these weights, and no optimizer state."""
    checkpoint = {
        "state_dict": {f"model.{name}": weight for name, weight in weights.items()},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "global_step": step,
    }
    return ShardedContent.split(checkpoint)


def run_in_a_rank(work: Callable[[], None]) -> int | None:
    """Run `work` as the only rank, in a fork; return the exit code."""

    def rank() -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        work()

    process = FORK.Process(target=rank)
    process.start()
    process.join(60)
    return process.exitcode
