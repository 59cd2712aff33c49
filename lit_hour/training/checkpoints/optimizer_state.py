"""Optimizer state by parameter names, to be restored on other ranks or with another strategy.

PyTorch numbers the parameters of an optimizer group by group. A sharded checkpoint names them:
`{"state": {NAME: {KEY: tensor}}, "param_groups": [{"params": [NAME, ...], "lr": ..., ...}, ...]}`
with PyTorch's own keys `exp_avg`, `exp_avg_sq` and `step`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_hour.errors import WeightsError
from lit_hour.weights.reader import copy_into

State = dict[str, Any]
NO_DECAY = "_no_decay"  # at the end of the name of a group without weight decay
OWN_KEYS = ("params", "fused", "foreach")  # of a group; they are not restored


def named_state(model: nn.Module, optimizer: Optimizer) -> State:
    """Return the state of an optimizer by parameter names; of a sharded model this rank's part."""
    name_of: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        {
            **group,
            "lr": float(group["lr"]),
            "params": [name_of[parameter] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    state = {
        name_of[parameter]: {key: dequantized(tensor) for key, tensor in tensors.items()}
        for parameter, tensors in optimizer.state.items()
    }
    return {"state": state, "param_groups": groups}


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, of any shape, without copying."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def dequantized(tensor: Tensor) -> Tensor:
    """Return a quantized tensor in float32, sharded as before; any other unchanged."""
    local = local_shard(tensor)
    if type(local) in (Tensor, nn.Parameter):
        return tensor
    plain = local.dequantize()
    if not isinstance(tensor, DTensor):
        return plain
    return DTensor.from_local(
        plain,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def requantize(optimizer: Optimizer) -> None:
    """Quantize the state that a checkpoint has brought, if the optimizer keeps it quantized."""
    quantize_state = getattr(optimizer, "quantize_state", None)
    if quantize_state is not None:
        quantize_state()


def index_by_number(state: State) -> State:
    """Convert a state by names to PyTorch's own, by numbers."""
    numbers = count()
    number_of = {name: next(numbers) for group in state["param_groups"] for name in group["params"]}
    groups = [
        {**group, "params": [number_of[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    numbered = {number_of[name]: tensors for name, tensors in state["state"].items()}
    return {"state": numbered, "param_groups": groups}


def flatten(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by names as `{"NAME.KEY": tensor}`.

    They have the shape of their parameter, or `()` for `step`.
    """
    return {
        f"{name}.{key}": tensor
        for name, tensors in state["state"].items()
        for key, tensor in tensors.items()
    }


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo `flatten`; the tensors keep their shapes."""
    state: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for flat_name, tensor in tensors.items():
        name, _, key = flat_name.rpartition(".")
        state[name][key] = tensor
    return dict(state)


def allocate_state(
    model: nn.Module, optimizer: Optimizer, outlines: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give an optimizer zero tensors to be filled, sharded as the parameters are.

    Args:
        model: the model, which names the parameters.
        optimizer: its state is replaced.
        outlines: meta tensor by flat name, `NAME.KEY`: the shape of the parameter, or `()` for
            `step`, and the dtype.

    Returns:
        The new tensors by flat name, with the shape and dtype of their outline.

    Raises:
        WeightsError: a parameter is not optimized in this run, or a tensor has another shape.
    """
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if parameter in trained
    }
    allocated = {}
    for name, tensors in unflatten(outlines).items():
        if name not in parameters:
            raise WeightsError(
                f"The checkpoint has optimizer state for {name}, which is frozen in this run"
            )
        for key, outline in tensors.items():
            tensor = _zeros_like(optimizer, parameters[name], outline, f"{name}.{key}")
            allocated[f"{name}.{key}"] = optimizer.state[parameters[name]][key] = tensor
    return allocated


def restore(optimizer: Optimizer, saved: State) -> None:
    """Fill an optimizer from a state by numbers with unsharded tensors; each rank keeps its part.

    Raises:
        WeightsError: the groups or the shapes are those of another optimizer.
    """
    restore_groups(optimizer, saved["param_groups"])
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for parameter, number in zip(group["params"], saved_group["params"], strict=True):
            for key, tensor in saved["state"].get(number, {}).items():
                label = f"{key} of parameter {number}"
                target = _zeros_like(optimizer, parameter, tensor, label)
                copy_into(tensor, target)
                optimizer.state[parameter][key] = target


def restore_groups(optimizer: Optimizer, saved: list[State]) -> None:
    """Restore the settings of an optimizer's groups, such as the current learning rate.

    Raises:
        WeightsError: the groups have other names, or other numbers of parameters.
    """
    check_groups(saved, optimizer.param_groups)
    for group, saved_group in zip(optimizer.param_groups, saved, strict=True):
        group.update({key: value for key, value in saved_group.items() if key not in OWN_KEYS})


def check_groups(saved: list[State], wanted: list[State]) -> None:
    """Compare the parameter groups of a checkpoint's optimizer with the groups of this run.

    Raises:
        WeightsError: the groups have other names, or other numbers of parameters.
    """
    before, now = (
        [(group["name"], len(group["params"])) for group in groups] for groups in (saved, wanted)
    )
    if before == now:
        return
    remedy = ""
    names = [name for name, _ in now]
    if [name for name, _ in before] == [name for name in names if not name.endswith(NO_DECAY)]:
        remedy = (
            ". Weight decay applied to norms, biases and embeddings too. To go on in this way, set"
            " training.weight_decay_scope=all"
        )
    raise WeightsError(
        f"The checkpoint's optimizer has {_describe(before)}; this run's has {_describe(now)}"
        f"{remedy}"
    )


def _zeros_like(
    optimizer: Optimizer, parameter: nn.Parameter, outline: Tensor, name: str
) -> Tensor:
    """Return zeros with the outline's dtype and the parameter's sharding."""
    if outline.dim() == 0:  # the number of steps
        device = parameter.device if optimizer.defaults.get("fused") else None
        return torch.zeros((), dtype=outline.dtype, device=device)  # ()
    if outline.shape != parameter.shape:
        raise WeightsError(
            f"The optimizer's {name} has the shape {tuple(outline.shape)} in the checkpoint instead"
            f" of {tuple(parameter.shape)}"
        )
    return torch.zeros_like(parameter, dtype=outline.dtype, requires_grad=False)


def _describe(groups: list[tuple[str, int]]) -> str:
    return ", ".join(f"{number} parameters of {name}" for name, number in groups)
