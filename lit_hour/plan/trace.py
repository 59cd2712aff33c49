"""Trace a training step on fake tensors: its memory, operations and communication on one rank.

The model, its parallelization and its optimizer are those of training, and the step runs operation
by operation, without computing. Entry point: `trace_step`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from lit_hour.config.schema import Config
from lit_hour.config.training import TrainingConfig, replica_mesh_shape
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.plan.fake_tensors import PlanningMode, fake_world
from lit_hour.plan.longest_sample import LongestSample, build_batch
from lit_hour.plan.memory_tracker import (
    Collective,
    MemoryPeak,
    local_bytes,
    track_step,
)
from lit_hour.plan.module_names import PARTS, ModuleNames, part_of
from lit_hour.training.module import forgetting_generators
from lit_hour.training.optim import build_optimizer, freeze_parts, parameters_by_part
from lit_hour.training.parallelize import REPLICA_MESH, parallelize
from lit_hour.types import Batch, tensor_fields

OFFLOADED = ("weights", "gradients", "optimizer state")  # by training.cpu_offload
EIGHT_BIT_BLOCK, MIN_EIGHT_BIT = 256, 4096  # elements with one scale; smallest quantized average
NUM_STEPS = 1000  # of the schedule, which changes no size
REMAINING_PART = "projector"  # kept visual tokens are projected outside of its modules


@dataclass(frozen=True)
class StepTrace:
    """A training step of one rank. Memory is in bytes.

    Attributes:
        num_parameters: by part, all and those that are trained; of the whole model.
        weights: of this rank, all the time.
        gradients: of this rank, at the end of the backward pass.
        optimizer_state: of this rank, all the time.
        data: tensors of a micro-batch.
        repository: of all samples of a micro-batch, in the precision that it is kept in.
        activations: kept from the forward pass for the backward pass.
        logits: the part of `activations` for the logits and the loss.
        peaks: by phase.
        flops: operations of a micro-batch by part, recomputed ones included.
        collectives: bytes of the step's collectives.
    """

    num_parameters: Mapping[str, tuple[int, int]]
    weights: int
    gradients: int
    optimizer_state: int
    data: int
    repository: int
    activations: int
    logits: int
    peaks: Mapping[str, MemoryPeak]
    flops: Mapping[str, int]
    collectives: Mapping[Collective, int]

    @property
    def peak_phase(self) -> str:
        """The phase of the largest peak."""
        return max(self.peaks, key=lambda phase: self.peaks[phase].total_bytes)

    @property
    def peak(self) -> MemoryPeak:
        """The largest peak of the step."""
        return self.peaks[self.peak_phase]


def trace_step(
    config: Config,
    sample: LongestSample,
    num_tokens: int,
    *,
    num_ranks: int,
    num_samples: int,
    num_micro_batches: int,
    on_gpu: bool,
) -> StepTrace:
    """Trace an optimizer step of one rank; each of its samples is the longest.

    Args:
        config: settings of the run. `training.compile` is not followed.
        sample: the longest sample.
        num_tokens: size of the tokenizer.
        num_ranks: that share the step.
        num_samples: samples of a micro-batch.
        num_micro_batches: of this rank in the step.
        on_gpu: use the optimizer's fused kernel, and do not count what is offloaded to the CPU.
    """
    config = replace(config, training=replace(config.training, compile=False))
    with fake_world(num_ranks), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's trackers, about modules that no longer exist
        with torch.device("meta"):
            model = HourLLaVA.from_config(config, num_tokens)
        freeze_parts(model, config.training)
        num_parameters = count_parameters(model)
        # Outside of the mode: fake tensors of all shards take a thousand times as long.
        mesh = None
        if config.training.strategy == "fsdp":
            mesh = build_mesh(num_ranks, config.training.replicas)
        if config.training.precision == "bf16-true":
            model.to(torch.bfloat16)
        parallelize(model, config.training, mesh)
        with PlanningMode():
            optimizer = _prepare(model, config, on_gpu)
            batch = build_batch(config, sample, model, num_samples)
            tracing = _StepTracing(config, model, optimizer, batch, num_ranks)
            if config.training.cpu_offload and on_gpu:
                tracing.tracker.offloaded = OFFLOADED
            trace = tracing.run(num_micro_batches)
    return replace(trace, num_parameters=num_parameters)


def build_mesh(num_ranks: int, replicas: int) -> DeviceMesh:
    """Return the mesh of a sharded model, as `ShardedStrategy` builds it.

    Raises:
        ConfigError: the replicas cannot share the ranks evenly.
    """
    shape = replica_mesh_shape(num_ranks, replicas)
    if replicas == 1:
        return init_device_mesh("cpu", (num_ranks,))
    return init_device_mesh("cpu", shape, mesh_dim_names=REPLICA_MESH)


def count_parameters(model: HourLLaVA) -> dict[str, tuple[int, int]]:
    """Return the parameters of each part, and how many of them are trained.

    Frozen weights of a language model with adapters count as its own.
    """
    parts = dict(parameters_by_part(model))
    parts["llm"] = list(model.llm.parameters())
    return {
        part: (
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )
        for part, parameters in parts.items()
    }


def _prepare(model: HourLLaVA, config: Config, on_gpu: bool) -> Optimizer:
    """Allocate fake weights, and build the optimizer with the state of its first step."""
    model.materialize("cpu")
    model.llm.quantize_frozen_layers()
    model.train()
    training = replace(config.training, optimizer="adamw")
    optimizer: Optimizer = build_optimizer(model, training, NUM_STEPS)["optimizer"]
    if on_gpu and not training.cpu_offload and "fused" in optimizer.defaults:
        for group in optimizer.param_groups:
            group["fused"] = True
    for parameter in trained_parameters(optimizer):
        parameter.grad = torch.zeros_like(parameter)
    finish_step(training, optimizer)
    if config.training.optimizer == "adamw_8bit":
        quantize_state(optimizer)
    return optimizer


def quantize_state(optimizer: Optimizer) -> None:
    """Replace the averages of AdamW by as many bytes as torchao's 8-bit averages have.

    torchao need not be installed. The averages are bytes with a float32 scale for each block; small
    ones, and those that blocks do not divide, stay. The optimizer cannot step afterwards.
    """
    for averages in optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            count = local_bytes([averages[key]]) // averages[key].element_size()
            if count >= MIN_EIGHT_BIT and count % EIGHT_BIT_BLOCK == 0:
                num_bytes = count + 4 * (count // EIGHT_BIT_BLOCK)
                averages[key] = torch.zeros(num_bytes // 4)  # fake, and as large


def finish_step(training: TrainingConfig, optimizer: Optimizer) -> None:
    """Clip the gradient and update the weights; 8-bit averages are not updated.

    The first call is not tracked: it creates the optimizer's state, and DTensor computes each of
    its operations on fake tensors of the unsharded size once, to find out how it is sharded.
    """
    if norm := training.gradient_clip_norm:
        torch.nn.utils.clip_grad_norm_(trained_parameters(optimizer), norm)
    if training.optimizer == "adamw":
        optimizer.step()


def trained_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _StepTracing:
    """One traced step; see `StepTrace`."""

    def __init__(
        self,
        config: Config,
        model: HourLLaVA,
        optimizer: Optimizer,
        batch: Batch,
        num_ranks: int,
    ) -> None:
        self._config, self._model, self._optimizer = config, model, optimizer
        self._batch, self._num_ranks = batch, num_ranks
        self._parameters = trained_parameters(optimizer)
        self._data = [
            tensor
            for record in (batch, *batch.visuals)
            for tensor in tensor_fields(record).values()
        ]
        # DistributedDataParallel copies gradients to buckets of their size, to reduce them. It is
        # not built here, because it reads values.
        is_ddp = config.training.strategy != "fsdp" and num_ranks > 1
        self._buckets = [torch.zeros_like(one) for one in self._parameters if is_ddp]
        self.tracker = track_step(model, optimizer, self._data, self._buckets)
        self._repository = self._before_logits = 0  # bytes

    def run(self, num_micro_batches: int) -> StepTrace:
        """Trace the step.

        The first two micro-batches are traced; all others are like the second.
        """
        peaks: dict[str, MemoryPeak] = {}
        flops: Counter[str] = Counter()
        collectives: Counter[Collective] = Counter()
        tracker = self.tracker
        with self._hooks(), tracker:
            counts = [1, num_micro_batches - 1] if num_micro_batches > 1 else [1]
            for index, count in enumerate(counts):
                activations, logits, counted = self._micro_batch(is_first=index == 0)
                flops.update({part: count * number for part, number in counted.items()})
                sent = tracker.collectives
                collectives.update({key: count * number for key, number in sent.items()})
                peaks = _larger(peaks, tracker.peaks)
                tracker.start_recording()
                tracker.reset_mod_stats()
            gradients = local_bytes(one.grad for one in self._parameters if one.grad is not None)
            if self._buckets:
                all_ranks = Collective("all_reduce", self._num_ranks, self._num_ranks - 1)
                collectives[all_ranks] += local_bytes(self._buckets)
            tracker.phase = "optimizer step"
            finish_step(self._config.training, self._optimizer)
            collectives.update(tracker.collectives)
            peaks = _larger(peaks, tracker.peaks)
        state = local_bytes(
            value
            for values in self._optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        )
        return StepTrace(
            num_parameters={},
            weights=local_bytes([*self._model.parameters(), *self._model.buffers()]),
            gradients=gradients,
            optimizer_state=state,
            data=local_bytes(self._data),
            repository=self._repository,
            activations=activations,
            logits=logits,
            peaks={name: _without_temporary_state(peak, state) for name, peak in peaks.items()},
            flops={part: number // num_micro_batches for part, number in flops.items()},
            collectives=dict(collectives),
        )

    def _micro_batch(self, is_first: bool) -> tuple[int, int, dict[str, int]]:
        """Trace forward and backward of a micro-batch.

        Lightning keeps the gradients of the last step until the end of the first forward pass.

        Returns:
            Bytes of activations that the forward pass keeps, and of logits among them; operations
            by part.
        """
        tracker, seed = self.tracker, self._config.run.seed
        tracker.phase = "forward"
        before = self._activations()
        with PartFlopCounter() as counter:
            with autocast(self._config):
                generators = forgetting_generators(self._batch, seed)
                output = self._model(self._batch, generators, self._config.training.objective)
            kept = self._activations()
            if is_first:
                self._optimizer.zero_grad()
            tracker.phase = "backward"
            loss = output.loss
            del output
            loss.backward()
        before_logits = self._before_logits or kept  # an objective without logits has none
        return kept - before, kept - before_logits, counter.by_part

    def _activations(self) -> int:
        """Return the bytes of activations in use now."""
        return self.tracker.memory().get("activations", 0)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Measure the repositories that MemAug gets, and the memory before the logits."""

        def on_memaug(module: nn.Module, args: tuple[Any, ...]) -> None:
            _, repositories, _ = args
            self._repository = local_bytes(one.memory[0] for one in repositories)

        def on_output_layer(module: nn.Module, args: tuple[Any, ...]) -> None:
            if torch._C._current_graph_task_id() == -1:  # not in the backward pass
                self._before_logits = self._activations()

        with ExitStack() as stack:
            for module, hook in (
                (self._model.memaug, on_memaug),
                (self._model.llm.network.lm_head, on_output_layer),
            ):
                stack.callback(module.register_forward_pre_hook(hook).remove)
            yield


def autocast(config: Config) -> AbstractContextManager[Any]:
    """Return the context of the forward pass for the configured precision."""
    if config.training.precision == "bf16-mixed":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


class PartFlopCounter(FlopCounterMode):
    """Counts operations, also by part of the model."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = ModuleNames()  # type: ignore[assignment]
        self.by_part = dict.fromkeys(PARTS, 0)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        before = self.get_total_flops()
        result = super()._count_flops(func_packet, out, args, kwargs)
        part = part_of(self.mod_tracker.current) or REMAINING_PART  # type: ignore[attr-defined]
        self.by_part[part] += self.get_total_flops() - before
        return result


def _larger(
    first: Mapping[str, MemoryPeak], second: Mapping[str, MemoryPeak]
) -> dict[str, MemoryPeak]:
    """Return the larger peak of each phase."""
    return {
        phase: max(
            (peaks[phase] for peaks in (first, second) if phase in peaks),
            key=lambda peak: peak.total_bytes,
        )
        for phase in {**first, **second}
    }


def _without_temporary_state(peak: MemoryPeak, state: int) -> MemoryPeak:
    """Count what the optimizer allocates for its computations as temporary, not as state."""
    by_kind = Counter(peak.by_kind)
    if (excess := by_kind["optimizer state"] - state) > 0:
        by_kind["optimizer state"] -= excess
        by_kind["temporary"] += excess
    return replace(peak, by_kind=dict(by_kind))
