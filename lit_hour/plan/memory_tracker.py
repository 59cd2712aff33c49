"""Trackers of the memory of a training step and of its communication, from torch's own trackers.

Entry point: `track_step`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.distributed._tools.fake_collectives import (
    CollectiveOp,
    collective_ops,
    sync_ops,
)
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_hour.plan.module_names import ModuleNames, describe_module

CPU = torch.device("cpu")
TOTAL = "Total"
# The kinds of both trackers of torch, by the names of a plan.
KINDS = {
    "Parameter": "weights",
    "Sharded Param": "weights",
    "Buffer": "weights",
    "Unsharded Param": "gathered weights",
    "All Gather": "gathered weights",
    "Gradient": "gradients",
    "Sharded Grad": "gradients",
    "Unsharded Grad": "gradients to reduce",
    "Reduce Scatter": "gradients to reduce",
    "Optstate": "optimizer state",
    "OptState": "optimizer state",
    "Activation": "activations",
    "Temp": "temporary",
    "Other": "data",
    "Inputs": "data",
}


@dataclass(frozen=True)
class MemoryPeak:
    """The largest memory of a phase of the step, in bytes.

    Attributes:
        by_kind: bytes of each kind; `total_bytes` is their sum.
        moment: the part of the model that computes then; empty between parts.
    """

    total_bytes: int
    by_kind: Mapping[str, int]
    moment: str


class Collective(NamedTuple):
    """A collective operation of a group of ranks that rank 0 belongs to.

    Attributes:
        last_rank: the largest rank of the group, which tells whether it is on another machine.
    """

    name: str
    num_ranks: int
    last_rank: int


class _Recording:
    """Records the peak of each phase, and the bytes of collectives; mixed into torch's trackers.

    Attributes:
        phase: "forward", "backward" or "optimizer step", set by the tracing code.
        peaks: by phase.
        collectives: bytes.
        offloaded: kinds that are in CPU memory, and not counted.
    """

    _curr_mem_snap: dict[torch.device, dict[Any, int]]
    phase = "forward"
    offloaded: Collection[str] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._mod_tracker = ModuleNames()
        self.start_recording()

    def start_recording(self) -> None:
        """Clear the record."""
        self.peaks: dict[str, MemoryPeak] = {}
        self.collectives: Counter[Collective] = Counter()

    def memory(self) -> dict[str, int]:
        """Return the bytes in use now, by kind."""
        by_kind: Counter[str] = Counter()
        for kind, num_bytes in self._curr_mem_snap.get(CPU, {}).items():
            if kind != TOTAL and KINDS[kind.value] not in self.offloaded:
                by_kind[KINDS[kind.value]] += num_bytes
        return dict(by_kind)

    def _update_peak_stats(self, peak_state: object) -> None:
        """Take the place of torch's method, which copies a snapshot for each module."""
        total = self._curr_mem_snap.get(CPU, {}).get(TOTAL, 0)
        if self.offloaded:
            total = sum(self.memory().values())
        former = self.peaks.get(self.phase)
        if former is None or total > former.total_bytes:
            moment = describe_module(self._mod_tracker.current)
            self.peaks[self.phase] = MemoryPeak(total, self.memory(), moment)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Track an operation, and count its bytes if it is a collective."""
        result = super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[misc]
        if func in collective_ops and func not in sync_ops and result is not NotImplemented:
            group = CollectiveOp.get_process_group(func, args)
            num_bytes = CollectiveOp.get_comm_tensor_size(func, result, args, kwargs)
            last_rank = max(dist.get_process_group_ranks(group))
            name = func.overloadpacket.__name__.strip("_")
            self.collectives[Collective(name, group.size(), last_rank)] += num_bytes
        return result


class ShardedStepTracker(_Recording, FSDPMemTracker):  # type: ignore[misc]
    """Tracker of a step of a sharded (FSDP2) model."""


class StepTracker(_Recording, MemTracker):  # type: ignore[misc]
    """Tracker of a step of a model that each rank holds."""

    def skip_frozen(self, model: nn.Module) -> None:
        """Mark frozen parameters as hooked: torch's tracker expects a gradient for each."""
        for parameter in model.parameters():
            if not parameter.requires_grad:
                hooks = RemovableHandle(OrderedDict()), RemovableHandle(OrderedDict())
                self._param_to_grad_hook_handles[parameter] = hooks


def track_step(
    model: nn.Module, optimizer: Optimizer, data: Sequence[Tensor], buckets: Sequence[Tensor]
) -> ShardedStepTracker | StepTracker:
    """Return a context manager that tracks steps of a model.

    Args:
        model: sharded or not.
        optimizer: with its state.
        data: tensors of the micro-batch.
        buckets: copies of gradients that ddp reduces over the ranks.
    """
    tracker: ShardedStepTracker | StepTracker
    if isinstance(model, FSDPModule):
        tracker = ShardedStepTracker(model, optimizer)
        tracker.track_inputs(tuple(data))
    else:
        tracker = StepTracker()
        tracker.skip_frozen(model)
        tracker.track_external(model, optimizer, *data)
        for bucket in buckets:
            tracker._update_and_maybe_create_winfos(bucket, _MemRefType.GRAD)
    return tracker


def local_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of this rank's part of some tensors; shared memory counts once."""
    storages = {
        id(storage): storage.nbytes()
        for tensor in tensors
        for storage in [
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        ]
    }
    return sum(storages.values())


def sent_bytes(collective: Collective, num_bytes: int) -> float:
    """Return the bytes that each rank sends for collectives of tensors of so many bytes.

    With n ranks an all-gather or a reduce-scatter of a tensor sends (n - 1) / n of it, and an
    all-reduce twice that, as NCCL's rings do.
    """
    is_all_reduce = "reduce" in collective.name and "scatter" not in collective.name
    return (2 if is_all_reduce else 1) * (1 - 1 / collective.num_ranks) * num_bytes
