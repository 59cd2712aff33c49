"""The reference model of DPO and GRPO: the weights that a run started from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_hour.model.hour_llava import HourLLaVA

Result = TypeVar("Result")
ADAPTER = ".lora_"  # in the names of an adapter's weights


class ReferenceModel:
    """The model with the learned weights as they were at the start of the run.

    Only these are kept twice; frozen ones are shared. With LoRA and all other parts frozen they are
    the adapters alone, and a fresh adapter adds zero: the reference is then the model with its
    adapters off. Checkpoints contain the copy, so a resumed run has the same reference.
    """

    def __init__(self) -> None:
        self._weights: dict[str, Tensor] = {}

    def start(self, model: HourLLaVA) -> None:
        """Copy the weights, unless a checkpoint brought them."""
        learned = {name: one for name, one in model.named_parameters() if one.requires_grad}
        if self._weights.keys() != learned.keys():
            self._weights = {name: one.detach().clone() for name, one in learned.items()}
        self._weights = {
            name: weight.to(learned[name].device) for name, weight in self._weights.items()
        }  # of any shape

    @property
    def shares_prompts(self) -> bool:
        """Return whether only adapters differ, so that the embeddings are the same."""
        return all(ADAPTER in name for name in self._weights)

    @torch.no_grad()
    def run(self, model: HourLLaVA, function: Callable[[], Result]) -> Result:
        """Call a function while the model has the weights of the reference, without gradients."""
        weights = {f"model.{name}": weight for name, weight in self._weights.items()}
        return functional_call(_ModelWithFunction(model), weights, (function,))

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of any shape, by name."""
        return dict(self._weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the weights of a checkpoint; `start` copies the model's if there are none."""
        self._weights = dict(state)


class _ModelWithFunction(nn.Module):
    """Calls a function of the model, to which `functional_call` gives other weights."""

    def __init__(self, model: HourLLaVA) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Result]) -> Result:
        return function()
