"""Parameter groups with a learning rate for each part of the model, AdamW, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from lit_hour.config.load import config_from_dict
from lit_hour.config.training import TrainingConfig
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training.checkpoints.optimizer_state import NO_DECAY
from lit_hour.training.optim_8bit import build_adamw_8bit

FUSED_DEVICES = ("cuda",)


def parameters_by_part(model: HourLLaVA) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each part with its own learning rate; of a LoRA LLM the adapters."""
    time_embedding = [] if model.time_embedding is None else [model.time_embedding.weight]
    return {
        "vision": list(model.vision.parameters()),
        "projector": [*model.projector.parameters(), model.frame_newline],
        "memaug": [*model.memaug.parameters(), *time_embedding],
        "llm": model.llm.trainable_parameters(),
    }


def parameter_groups(model: HourLLaVA, training: TrainingConfig) -> list[dict[str, Any]]:
    """Return a group for each trained part, named after it, and one for its weights without decay.

    The latter exists only where there is weight decay; its name ends with `NO_DECAY`.
    """
    is_spared = training.weight_decay > 0 and training.weight_decay_scope == "matrices"
    spared = norms_biases_and_embeddings(model) if is_spared else set()
    rates, groups = asdict(training.learning_rate), []
    for part, parameters in parameters_by_part(model).items():
        decaying = [parameter for parameter in parameters if parameter not in spared]
        others = [parameter for parameter in parameters if parameter in spared]
        for name, members, decay in (
            (part, decaying, training.weight_decay),
            (f"{part}{NO_DECAY}", others, 0.0),
        ):
            if members and rates[part] > 0:
                groups.append(
                    {"params": members, "lr": rates[part], "name": name, "weight_decay": decay}
                )
    return groups


def norms_biases_and_embeddings(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that are not matrices, and the parameters of embeddings."""
    return {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() < 2
        or isinstance(module, nn.Embedding)
        or name.endswith(("embedding", "embed"))  # of positions, as a plain parameter
    }


def has_fused_adamw(device: torch.device) -> bool:
    """Return whether AdamW updates all weights of this device in one kernel."""
    return device.type in FUSED_DEVICES


def freeze_parts(model: HourLLaVA, training: TrainingConfig) -> None:
    """Set `requires_grad` for the parts with a learning rate above 0, and for no others."""
    rates = asdict(training.learning_rate)
    model.requires_grad_(False)
    for part, parameters in parameters_by_part(model).items():
        for parameter in parameters:
            parameter.requires_grad_(rates[part] > 0)


def local_gradients(module: nn.Module) -> list[Tensor]:
    """Return the gradient of each parameter that has one, without copying.

    Of a sharded parameter it is this rank's part, of the shape of its local shard.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]


def total_gradient_norm(module: nn.Module) -> Tensor:
    """Return the L2 norm of the gradient, `()`; NaN if there is none, as in a skipped step.

    Ranks that share the parameters have to call this together.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.tensor(math.nan)  # ()
    norm = torch.nn.utils.get_total_norm(gradients)  # ()
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def build_optimizer(model: HourLLaVA, training: TrainingConfig, num_steps: int) -> dict[str, Any]:
    """Build AdamW with a named group for each trained part, and a cosine schedule with warm-up.

    Returns:
        What `configure_optimizers` returns to Lightning.

    Raises:
        ConfigError: every part is frozen, or the schedule ends before the run.
    """
    groups = parameter_groups(model, training)
    if not groups:
        raise ConfigError("Every part is frozen. Set at least one training.learning_rate above 0")
    betas, eps = (training.adam_beta1, training.adam_beta2), training.adam_eps
    optimizer: torch.optim.Optimizer
    if training.optimizer == "adamw_8bit":
        optimizer = build_adamw_8bit(groups, betas=betas, eps=eps)
    else:
        fused = has_fused_adamw(groups[0]["params"][0].device) or None
        optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps, fused=fused)
    # Lightning would refuse to clip: a fused optimizer may scale gradients in float16, unused here.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    num_schedule_steps, num_warmup_steps = schedule_lengths(training, num_steps)
    schedule = LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, num_schedule_steps, num_warmup_steps)
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
    }


def schedule_lengths(training: TrainingConfig, num_steps: int) -> tuple[int, int]:
    """Return the steps of the schedule and of its warm-up, for a run of so many steps.

    Raises:
        ConfigError: the schedule ends before the run, whose later steps would learn nothing.
    """
    num_schedule_steps = training.schedule_steps or num_steps
    if num_schedule_steps < num_steps:
        raise ConfigError(
            f"The run has {num_steps} steps, but training.schedule_steps={num_schedule_steps}: the"
            " learning rates of later steps would be 0. Raise training.schedule_steps, or set"
            f" training.max_steps={num_schedule_steps}"
        )
    return num_schedule_steps, round(training.warmup_ratio * num_schedule_steps)


def describe_schedule_change(
    former: Mapping[str, Any], training: TrainingConfig, num_steps: int, step: int
) -> str:
    """Return what changes in the schedule when a run resumes; "" if nothing does.

    Args:
        former: hyper-parameters in the checkpoint.
        training: the settings of this start.
        num_steps: of the whole run.
        step: at which it resumes.
    """
    old = config_from_dict(former["config"], "the hyper-parameters of the checkpoint").training
    lengths = (
        schedule_lengths(old, former["num_steps"]),
        schedule_lengths(training, num_steps),
    )
    if lengths[0] == lengths[1]:
        return ""
    before, now = (f"{cosine_with_warmup(step, *length):.1%}" for length in lengths)
    (old_steps, old_warmup), (new_steps, new_warmup) = lengths
    remedy = f"training.schedule_steps={old_steps}"
    if old_steps < num_steps:
        remedy = f"training.max_steps={old_steps}"
    if old.warmup_ratio != training.warmup_ratio:
        remedy += f" and training.warmup_ratio={old.warmup_ratio:g}"
    return (
        f"The schedule of the learning rates has {new_steps} steps, {new_warmup} of them warm-up;"
        f" until step {step} it had {old_steps} and {old_warmup}. At this step the rates change"
        f" from {before} of their peak to {now}. To keep the former schedule, set {remedy}."
    )


def update_learning_rates(schedule: LambdaLR) -> None:
    """Set the rates of the next step by this start's schedule.

    Those in a checkpoint are by the schedule of the earlier start. At its end they are 0, so that
    the first of further steps would learn nothing.
    """
    groups, factors = schedule.optimizer.param_groups, schedule.lr_lambdas
    for group, peak, factor in zip(groups, schedule.base_lrs, factors, strict=True):
        rate = peak * factor(schedule.last_epoch)
        if isinstance(group["lr"], Tensor):  # of the 8-bit optimizer, which needs it to stay one
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def cosine_with_warmup(step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Return the factor of the peak learning rate: linear warm-up, then half a cosine to 0.

    The first of `num_warmup_steps` is not 0 and step `num_steps - 1` is not either: a step whose
    rates are 0 learns nothing. In Hugging Face's schedule of this name the first step has 0.
    """
    if step < num_warmup_steps:
        return (step + 1) / (num_warmup_steps + 1)
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
