"""The devices of a predictor: one, or one per process where processes share a video's memory."""

from __future__ import annotations

import os
import re

import torch
import torch.distributed as dist

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError


def join_ranks(config: Config, device: str | None) -> tuple[dist.ProcessGroup | None, str | None]:
    """Join the processes that torchrun has started, to divide memories over them.

    Args:
        config: the settings.
        device: of the caller's choice; None for a GPU if there is one.

    Returns:
        Their group, and the device of this process. The group is None without
        `model.memaug.shard_memory`, and for a process alone; the device is the given one then.
    """
    if not config.model.memaug.shard_memory or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, device
    is_on_gpu = device != "cpu" and torch.cuda.is_available()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if is_on_gpu else "gloo")
    return dist.group.WORLD, f"cuda:{os.environ['LOCAL_RANK']}" if is_on_gpu else "cpu"


def check_device(device: str) -> None:
    """Raise a ConfigError if this machine does not have the device "cpu", "cuda" or "cuda:N"."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"There is no device {device}. Use cpu, cuda or cuda:N.")
    name, _, number = device.partition(":")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and num_gpus == 0:
        raise ConfigError(f"PyTorch finds no GPU here for device {device}. Use cpu.")
    if name == "cuda" and number and int(number) >= num_gpus:
        raise ConfigError(f"There is no device {device} here. The last is cuda:{num_gpus - 1}.")
