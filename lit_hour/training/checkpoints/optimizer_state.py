"""An optimizer's state, found again when the ranks, or the way in which they share a model, have changed.

PyTorch numbers the parameters of an optimizer: group by group, in order. A sharded checkpoint names them instead:
`{"state": {NAME: {KIND: tensor}}, "param_groups": [{"params": [NAME, ...], "name": "vision", "lr": ...}, ...]}`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_hour.errors import WeightsError
from lit_hour.weights.reader import copy_into

State = dict[str, Any]


def named_state(model: nn.Module, optimizer: Optimizer) -> State:
    """The state of an optimizer by the names of the model's parameters; of a sharded model this rank's part."""
    name_of: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        {**group, "params": [name_of[each] for each in group["params"]]}
        for group in optimizer.param_groups
    ]
    return {
        "state": {name_of[each]: dict(kinds) for each, kinds in optimizer.state.items()},
        "param_groups": groups,
    }


def numbered(state: State) -> State:
    """A state by names as PyTorch's own, by numbers."""
    numbers = count()
    number_of = {name: next(numbers) for group in state["param_groups"] for name in group["params"]}
    groups = [
        {**group, "params": [number_of[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {number_of[name]: kinds for name, kinds in state["state"].items()},
        "param_groups": groups,
    }


def flattened(state: State) -> dict[str, Tensor]:
    """The tensors of a state by names: `NAME.KIND` -> tensor."""
    return {
        f"{name}.{kind}": tensor
        for name, kinds in state["state"].items()
        for kind, tensor in kinds.items()
    }


def unflattened(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`NAME.KIND` -> tensor, as the state by names has it."""
    state: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        state[name][kind] = tensor
    return dict(state)


def make_places(
    model: nn.Module, optimizer: Optimizer, outlines: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give an optimizer tensors to be filled, sharded as the parameters are: those that `outlines` names, `NAME.KIND`.

    Raises:
        WeightsError: a parameter is not among those that the optimizer moves, or one of its tensors has another shape.
    """
    learning = {each for group in optimizer.param_groups for each in group["params"]}
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if parameter in learning
    }
    places = {}
    for name, kinds in unflattened(outlines).items():
        if name not in parameters:
            raise WeightsError(
                f"the checkpoint has a state of the optimizer for {name}, which does not learn in this run"
            )
        for kind, outline in kinds.items():
            place = _make_place(parameters[name], outline, f"{name}.{kind}")
            places[f"{name}.{kind}"] = optimizer.state[parameters[name]][kind] = place
    return places


def restore(optimizer: Optimizer, saved: State) -> None:
    """Fill an optimizer from a state by numbers, whose tensors are whole; each rank keeps its part of them.

    Raises:
        WeightsError: the groups or the shapes are those of another optimizer.
    """
    restore_groups(optimizer, saved["param_groups"])
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for parameter, number in zip(group["params"], saved_group["params"], strict=True):
            for kind, tensor in saved["state"].get(number, {}).items():
                place = _make_place(parameter, tensor, f"{kind} of parameter {number}")
                copy_into(tensor, place)
                optimizer.state[parameter][kind] = place


def restore_groups(optimizer: Optimizer, saved: list[State]) -> None:
    """Give the groups of an optimizer the settings that a checkpoint has for them, such as the learning rate of the moment.

    Raises:
        WeightsError: they have other names, or other numbers of parameters.
    """
    found, wanted = (
        [(group["name"], len(group["params"])) for group in groups]
        for groups in (saved, optimizer.param_groups)
    )
    if found != wanted:
        raise WeightsError(
            f"the checkpoint's optimizer moves {_spell(found)}, that of this run {_spell(wanted)}"
        )
    for group, saved_group in zip(optimizer.param_groups, saved, strict=True):
        group.update({key: value for key, value in saved_group.items() if key != "params"})


def _make_place(parameter: nn.Parameter, outline: Tensor, name: str) -> Tensor:
    if outline.dim() == 0:  # a count of steps
        return torch.zeros((), dtype=outline.dtype)  # ()
    if outline.shape != parameter.shape:
        raise WeightsError(
            f"the optimizer's {name} is {tuple(outline.shape)} in the checkpoint and has to be {tuple(parameter.shape)}"
        )
    return torch.zeros_like(parameter, dtype=outline.dtype, requires_grad=False)


def _spell(groups: list[tuple[str, int]]) -> str:
    return ", ".join(f"{number} parameters of {name}" for name, number in groups)
