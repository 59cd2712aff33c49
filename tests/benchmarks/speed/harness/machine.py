"""Describe the machine, the versions and the commit of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from lit_hour.media.selective_decoding import num_available_cpus
from tests import REPOSITORY
from tests.benchmarks.speed.harness.peers import peer_versions

PACKAGES = ("torch", "torchvision", "lightning", "av", "pillow")


def describe_machine() -> dict[str, str | int | float | dict[str, str]]:
    """Return hardware and versions that the figures depend on."""
    return {
        "cpu": cpu_name(),
        "cores": num_available_cpus(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "peers": peer_versions(),
    }


def current_time() -> str:
    """Return the time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def current_commit() -> str:
    """Return the commit of the checkout, with a + if files differ from it; empty outside git."""
    options = ["--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    command = ["git", "-C", str(REPOSITORY), "describe", *options]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
