"""Names of the modules that run now, in the forward and the backward pass.

Entry point: `ModuleNames`, which takes the place of torch's own trackers of modules.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed._tools.mod_tracker import ModTracker
from torch.utils._pytree import tree_leaves

# The modules of each part of the model; hidden layers of the projector are a module of their own.
PARTS = {
    "vision encoder": re.compile(r"\w+\.vision\b"),
    "projector": re.compile(r"Sequential\b|\w+\.projector\b"),
    "MemAug": re.compile(r"\w+\.memaug\b"),
    "output layer": re.compile(r"\w+\.llm\.network\.lm_head\b"),
    "language model": re.compile(r"\w+\.llm\b"),
}
BLOCK = re.compile(r"\.(?:blocks|layers|resblocks)\.(\d+)\b")


class ModuleNames(ModTracker):
    """Tracks the modules that run, without holding tensors.

    torch's trackers hold gradients of a module's inputs until it has all of them, which would count
    as memory of the step.

    Attributes:
        parents: names of the modules in whose forward pass an operation runs; in the backward pass
            those of recomputation.
        backward: name of the module whose backward pass began last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backward = ""
        self._num_active: Counter[str] = Counter()

    @property
    def current(self) -> str:
        """Name of the innermost module that runs; "" outside of all."""
        if len(self.parents) > 1:
            return max(self.parents - {"Global"}, key=len)
        return self.backward if self.is_bw else ""

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        name = self._get_mod_name(mod)
        self._num_active[name] += 1
        self.parents.add(name)
        if self._user_pre_fw_hook is not None:
            self._user_pre_fw_hook(mod, input)

    def _fw_post_hook(self, mod: nn.Module, input: Any, output: Any) -> None:
        name = self._get_mod_name(mod)
        if self._user_post_fw_hook is not None:
            self._user_post_fw_hook(mod, input, output)
        self._num_active[name] -= 1
        if not self._num_active[name]:
            self.parents.discard(name)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not self.is_bw:
                leaf.register_hook(partial(self._enter_backward, name))

    def _enter_backward(self, name: str, gradient: Tensor) -> None:
        self.backward = name


def part_of(name: str) -> str:
    """Return the part of the model that a module belongs to; "" for none."""
    return next((part for part, pattern in PARTS.items() if pattern.match(name)), "")


def describe_module(name: str) -> str:
    """Return the part of the model and the block of a module; "" for none."""
    block = BLOCK.search(name)
    return part_of(name) + (f", block {block.group(1)}" if block else "")
