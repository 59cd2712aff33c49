"""Fake tensors with real indices, and a process group without other processes.

Entry points: `PlanningMode` and `fake_world`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
FLOAT_DRAWS = (aten.rand.generator,)  # real, because forgetting takes indices from them


class PlanningMode(FakeTensorMode):
    """`FakeTensorMode` in which integers and booleans have values.

    How many tokens a text has, which of them are learned and which forgetting keeps follows from
    the values of small integer tensors. Those are computed; the tensors of the model have shapes
    and no memory. An operation with both kinds of inputs has a fake result.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation on real tensors for real, and any other on fake tensors."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and all(type(tensor) is Tensor and not tensor.is_meta for tensor in tensors):
            return func(*args, **kwargs)
        if not tensors and _creates_indices(func, args, kwargs):
            return func(*args, **kwargs)
        if func is aten.index.Tensor:  # a mask of booleans has a result of unknown length
            masks: Sequence[Tensor | None] = args[1]  # type: ignore[assignment]
            args = (args[0], [index for mask in masks for index in _to_indices(mask)])
        return super().__torch_dispatch__(func, types, args, kwargs)


def _creates_indices(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an operation without input tensors creates integers or booleans."""
    if func in FLOAT_DRAWS:
        return kwargs.get("generator") is not None
    if kwargs.get("device") not in (None, torch.device("cpu")):
        return False
    dtype = kwargs.get("dtype")
    if dtype is None:
        is_typed_by_values = func.overloadpacket in (aten.arange, aten.full)
        return is_typed_by_values and all(isinstance(leaf, int) for leaf in tree_leaves(args))
    return not (dtype.is_floating_point or dtype.is_complex)


def _to_indices(index: Tensor | None) -> Sequence[Tensor | None]:
    """Return the indices of a real mask of booleans, one for each of its dimensions."""
    is_mask = index is not None and index.dtype is torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero().unbind(dim=1) if is_mask and index is not None else [index]


@contextmanager
def fake_world(num_ranks: int) -> Iterator[None]:
    """Start a process group of so many ranks, of which only rank 0 exists; end it afterwards.

    Its collectives return at once.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
