"""AdamW with its averages as 8-bit integers, by the optional package torchao."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_hour.training.checkpoints.optimizer_state import dequantized, local_shard

IS_SIGNED = {"exp_avg": True, "exp_avg_sq": False}  # the averages that are quantized


def build_adamw_8bit(groups: Iterable[dict[str, Any]], **options: Any) -> Optimizer:
    """Build the optimizer. Its checkpoints have float32 averages, like torch's AdamW.

    Averages of fewer than 4,096 elements, or of a number that 256 does not divide, are float32.

    Args:
        groups: of parameters, possibly sharded.
        options: `betas` and `eps`.
    """
    from torchao.optim import AdamW8bit

    class CheckpointedAdamW8bit(AdamW8bit):
        """AdamW8bit with checkpoints that torch's AdamW reads; it reads checkpoints of both."""

        def state_dict(self) -> dict[str, Any]:
            content = super().state_dict()
            content["state"] = {
                number: {key: dequantized(tensor) for key, tensor in tensors.items()}
                for number, tensors in content["state"].items()
            }
            for group in content["param_groups"]:
                group["lr"] = float(group["lr"])
            return content

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            self.quantize_state()

        def quantize_state(self) -> None:
            """Quantize what a checkpoint has brought, and make the learning rates tensors again."""
            for group in self.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)  # ()
            for parameter, tensors in self.state.items():
                for key in IS_SIGNED.keys() & tensors:
                    tensors[key] = self._quantized(parameter, tensors[key], IS_SIGNED[key])

        def _quantized(self, parameter: Tensor, average: Tensor, is_signed: bool) -> Tensor:
            buffer: Tensor = self._new_buffer(parameter, is_signed)
            local_shard(buffer).copy_(local_shard(average))
            return buffer

    return CheckpointedAdamW8bit(groups, **options)
