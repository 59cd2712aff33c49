"""The repeated blocks of a model: compiled, and computed again in the backward pass instead of being remembered.

Both change how a block computes, in place, and neither the names nor the values of its weights.


A model that no rank holds as a whole: each has a part of every weight, of its gradient and of the optimizer's state.

Lightning's ModelParallelStrategy starts the ranks and runs the steps; PyTorch's `fully_shard` (FSDP2) gathers the weights of
one block at a time, for as long as it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training.checkpoints.checkpoint_io import load_sharded, save_sharded
from lit_hour.training.checkpoints.optimizer_state import named_state, restore
from lit_hour.weights.dcp_reader import is_sharded
from lit_hour.weights.name_map import optional_weights
from lit_hour.weights.reader import (
    MODEL_PREFIX,
    check_state_dict,
    load_into,
    open_weights,
    read_checkpoint,
    shapes_of,
)

CACHE = "past_key_values"  # what a layer of the language model is given while it makes an answer


def blocks_of(model: HourLLaVA) -> list[nn.Module]:
    """The blocks of the vision encoder, of MemAug and of the language model.

    Raises:
        ConfigError: the vision encoder is not made of blocks.
    """
    return [*model.vision.blocks, *model.memaug.blocks, *model.llm.layers]


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let torch.compile translate each block, but not for making answers, where each token finds another length."""
    for block in blocks:
        block.forward = _unless_answering(torch.compile(block.forward), block.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let each block keep only its inputs, and compute all else again when its gradient is wanted."""
    for block in blocks:
        block.forward = _again_in_backward(block.forward)


def _unless_answering(
    compiled: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        return (compiled if named.get(CACHE) is None else plain)(*inputs, **named)

    return forward


def _again_in_backward(plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return forward


GATHERED = {
    "32-true": None,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
}  # precision -> dtype of gathered weights


def sharing(config: Config) -> dict[str, Any]:
    """The Trainer's arguments for how the ranks share the work.

    What a validation gathers is used again by the next step, and no gradient passes what was made in inference mode.
    """
    if config.training.strategy == "fsdp":
        return {"strategy": ShardedStrategy(config), "inference_mode": False}
    return {"strategy": config.training.strategy}


def shard(model: HourLLaVA, mesh: DeviceMesh, precision: str) -> None:
    """Divide the weights of a model among the ranks of a mesh; gradients are added up in float32.

    The vision encoder is gathered as a whole, and once for all pictures of a batch: block by block it would be gathered as
    often as a video has chunks, and ranks with videos of different lengths would wait for each other for ever. Each block of
    MemAug and each layer of the language model is gathered by itself; what is left belongs to the model.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=GATHERED[precision],
        reduce_dtype=torch.float32 if GATHERED[precision] else None,
        cast_forward_inputs=False,  # what a block is given has the dtype of the weights that made it
    )
    for block in (model.vision, *model.memaug.blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(block, "forward_many")
    for module in (*model.llm.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "examine")


class ShardedStrategy(ModelParallelStrategy):
    """All ranks share one model; its checkpoints are folders of pieces, which any number of ranks reads.

    It also goes on from the checkpoint of a run that was not sharded: the optimizer's state is found by the weights' names.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(tensor_parallel_size=1)
        self._config = config

    def setup_environment(self) -> None:
        """Start the ranks; all of them together hold one model."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's part of the weights, where it lies; one that has two names is there once."""
        model = self._hour_llava
        own = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
        return {
            f"{MODEL_PREFIX}{name}": weight
            for name, weight in model.state_dict().items()
            if name in own
        }

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """This rank's part of the optimizer's state, by the weights' names."""
        unwrapped = getattr(optimizer, "optimizer", optimizer)  # of Lightning's wrapper
        return named_state(self._hour_llava, unwrapped)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the folder beside its place, every rank its part, then move it there.

        Raises:
            RunError: a rank could not write its part.
        """
        save_sharded(Path(self.broadcast(filepath)), checkpoint, self._config, self)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Take weights and optimizer's state from a checkpoint, sharded or not; what else it holds comes back.

        Raises:
            WeightsError: it is damaged, or a weight is missing, left over or of another shape.
        """
        place = Path(self.broadcast(checkpoint_path))
        stored, model = open_weights(place), self._hour_llava
        check_state_dict(
            shapes_of(model.state_dict()),
            stored.shapes,
            str(place),
            optional=optional_weights(self._config),
        )
        checkpoint = read_checkpoint(place)
        (optimizer,) = self.optimizers
        if is_sharded(place):
            load_sharded(place, model, optimizer)
        else:
            load_into(model, stored.tensors())
            restore(optimizer, checkpoint["optimizer_states"][0])
        return checkpoint

    @property
    def _hour_llava(self) -> HourLLaVA:
        assert self.lightning_module is not None
        return self.lightning_module.model  # type: ignore[return-value]
