"""Compile blocks, checkpoint their activations, and shard the model over the ranks (FSDP2).

Entry point: `parallelize`. `ShardedStrategy` is the Lightning strategy of a sharded run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from lit_hour.config.schema import Config
from lit_hour.config.training import TrainingConfig, replica_mesh_shape
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training.checkpoints.background import BackgroundSaver
from lit_hour.training.checkpoints.checkpoint_io import ShardedContent, load_sharded, write_sharded
from lit_hour.training.checkpoints.optimizer_state import named_state, requantize, restore
from lit_hour.types import Batch
from lit_hour.weights.base_weights import BaseRecord
from lit_hour.weights.dcp_reader import is_sharded
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import (
    MODEL_PREFIX,
    check_state_dict,
    load_into,
    optional_weights,
    read_checkpoint,
)

TRUE_BF16 = "bf16-true"  # of training.precision
GATHERED_DTYPES = {  # dtype of gathered weights by training.precision; None: as stored
    "32-true": None,
    TRUE_BF16: torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
}

REPLICA_MESH = ("replicas", "shards")  # dimensions of the mesh of HSDP


def parallelize(model: HourLLaVA, training: TrainingConfig, mesh: DeviceMesh | None) -> None:
    """Pack texts, and compile, checkpoint and shard a model in place, as configured.

    Names and values of the weights do not change.

    Args:
        model: its blocks and their forward methods are replaced.
        training: `packing`, `compile`, `activation_checkpointing` and `precision` are used.
        mesh: of the ranks of a sharded run, see `shard`; else None.

    Raises:
        ConfigError: the vision encoder has no blocks to compile or checkpoint.
    """
    if training.packing:
        model.llm.pack_texts()
    if training.compile:
        compile_blocks(transformer_blocks(model))
    if training.activation_checkpointing:
        checkpoint_blocks(transformer_blocks(model))
    if mesh is not None:
        shard(model, mesh, GATHERED_DTYPES[training.precision], training.cpu_offload)


def transformer_blocks(model: HourLLaVA) -> list[nn.Module]:
    """Return the blocks of the vision encoder, of MemAug and of the language model."""
    return [*model.vision.blocks, *model.memaug.blocks, *model.llm.layers]


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block for training.

    Validation and generation stay eager, because their numbers of texts and tokens keep changing.
    """
    for block in blocks:
        block.forward = _eager_without_grad(torch.compile(block.forward), block.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Use activation checkpointing: keep each block's inputs, recompute it in the backward pass."""
    for block in blocks:
        block.forward = _with_activation_checkpointing(block.forward)


def shard(
    model: HourLLaVA,
    mesh: DeviceMesh,
    gathered_dtype: torch.dtype | None,
    cpu_offload: bool = False,
) -> None:
    """Shard the weights over the ranks of a mesh; gradients are reduced in float32.

    A mesh of two dimensions is replicas x shards (HSDP). With `cpu_offload` shards are kept in CPU
    memory, pinned where there is a GPU.

    The vision encoder is one FSDP unit, gathered once for all images of a batch. Gathered block by
    block, it would be gathered as often as a video has chunks, and ranks with videos of different
    lengths would wait for each other forever. Each block of MemAug and each layer of the language
    model is a unit; the other weights belong to the root unit.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=gathered_dtype,
        reduce_dtype=torch.float32 if gathered_dtype else None,
        cast_forward_inputs=False,  # inputs already have the dtype of the weights
    )
    offload = OffloadPolicy()
    if cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    for unit in (model.vision, *model.memaug.blocks, *model.llm.layers):
        fully_shard(unit, mesh=mesh, mp_policy=policy, offload_policy=offload)
    # Generation follows the forward pass of a validation step and uses the weights of the root
    # again.
    fully_shard(
        model, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=False
    )


def _eager_without_grad(
    compiled: Callable[..., Any], eager: Callable[..., Any]
) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else eager)(*args, **kwargs)

    return forward


def _with_activation_checkpointing(plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(plain, *args, use_reentrant=False, **kwargs)
        return plain(*args, **kwargs)

    return forward


class ShardedStrategy(ModelParallelStrategy):
    """Lightning strategy in which all ranks, or the ranks of a replica, share a model (FSDP2).

    Its checkpoints are folders that any number of ranks can read. It also resumes from the
    checkpoint file of an unsharded run: the optimizer's state is matched by parameter names.
    """

    def __init__(self, config: Config) -> None:
        is_offloaded = config.training.cpu_offload and torch.cuda.is_available()
        # The gradient of offloaded weights is in CPU memory, where its norm is reduced.
        backend = "cpu:gloo,cuda:nccl" if is_offloaded else None
        super().__init__(tensor_parallel_size=1, process_group_backend=backend)
        self._config = config
        self._background = BackgroundSaver(config)
        self._replica_mesh: DeviceMesh | None = None

    def setup_environment(self) -> None:
        """Start the ranks, and arrange them for `sharding_mesh`.

        Raises:
            ConfigError: the replicas cannot share the ranks evenly.
        """
        num_ranks, replicas = self.num_nodes * self.num_processes, self._config.training.replicas
        shape = replica_mesh_shape(num_ranks, replicas)
        self._data_parallel_size = num_ranks
        super().setup_environment()
        if replicas > 1:
            self._replica_mesh = init_device_mesh(
                self.root_device.type, shape, mesh_dim_names=REPLICA_MESH
            )

    @property
    def sharding_mesh(self) -> DeviceMesh:
        """The mesh of the weights: all ranks, or replicas x shards."""
        return self._replica_mesh or self.device_mesh["data_parallel"]

    @property
    def weights_device(self) -> torch.device:
        """The device of the weights' shards."""
        return torch.device("cpu") if self._config.training.cpu_offload else self.root_device

    def model_to_device(self) -> None:
        """Move the module to this rank's device; offloaded weights stay, as FSDP moves them."""
        if self.weights_device == self.root_device:
            super().model_to_device()
            return
        assert self.lightning_module is not None
        for child in self.lightning_module.children():
            if child is not self._hour_llava:
                child.to(self.root_device)
        for module in self._hour_llava.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(
                    name,
                    buffer.to(self.root_device),
                    persistent=name not in module._non_persistent_buffers_set,
                )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this rank's part of the weights, without copying; tied weights occur once."""
        model = self._hour_llava
        names = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
        return {
            f"{MODEL_PREFIX}{name}": weight
            for name, weight in model.state_dict().items()
            if name in names
        }

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return this rank's part of the optimizer's state by parameter names."""
        unwrapped = getattr(optimizer, "optimizer", optimizer)  # of Lightning's wrapper
        return named_state(self._hour_llava, unwrapped)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint folder atomically; each rank writes its part.

        With `training.async_checkpoints`, return when the checkpoint is copied.

        Raises:
            RunError: a rank could not write its part, or that of the save before.
        """
        path, content = Path(self.broadcast(filepath)), ShardedContent.split(checkpoint)
        if self._config.training.async_checkpoints:
            self._background.save(path, content, is_on_gpu=self.root_device.type == "cuda")
        else:
            write_sharded(path, content, self._config)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a checkpoint, after the checkpoints that are still being written."""
        if self._config.training.async_checkpoints:
            self._background.remove(
                lambda: super(ShardedStrategy, self).remove_checkpoint(filepath)
            )
        else:
            super().remove_checkpoint(filepath)

    def wait_for_checkpoints(self) -> None:
        """Wait until the checkpoints saved so far are on disk.

        Raises:
            RunError: one of them could not be written.
        """
        self._background.wait()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Raise the error of a checkpoint that could not be written, on all ranks together."""
        self._background.check()

    def on_train_end(self) -> None:
        """Wait until the checkpoints are on disk."""
        super().on_train_end()
        self._background.wait()

    def on_exception(self, exception: BaseException) -> None:
        """Wait until the checkpoints are on disk; an error of theirs is only logged."""
        super().on_exception(exception)
        self._background.wait_and_log()

    def teardown(self) -> None:
        """Free the memory of the copies."""
        super().teardown()
        self._background.close()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load weights and optimizer state of a checkpoint, sharded or not, and return the rest.

        Raises:
            WeightsError: the checkpoint is corrupt, or a weight is missing, unexpected or of
                another shape.
        """
        path = Path(self.broadcast(checkpoint_path))
        stored, model = open_run_weights(path, self._config), self._hour_llava
        check_state_dict(
            model.state_dict(),
            stored.meta_tensors,
            str(path),
            optional=optional_weights(self._config),
        )
        content = read_checkpoint(path)
        (optimizer,) = self.optimizers
        if is_sharded(path):
            load_sharded(path, model, optimizer)
            if record := BaseRecord.of_checkpoint(content):
                load_into(model, stored.subset(record.digests).tensors())
        else:
            load_into(model, stored.tensors())
            restore(optimizer, content["optimizer_states"][0])
        requantize(optimizer)
        return content

    @property
    def _hour_llava(self) -> HourLLaVA:
        assert self.lightning_module is not None
        return self.lightning_module.model  # type: ignore[return-value]
