"""What a measurement was made on: the machine, the versions, the commit and the time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from lit_hour.media.gop_decoder import num_available_cpus
from tests.benchmarks.speed.harness.peers import peer_versions

REPOSITORY = Path(__file__).parents[4]


def describe_machine() -> dict[str, str | int | float | dict[str, str]]:
    """Names, sizes and versions that figures depend on."""
    return {
        "cpu": processor_name(),
        "cores": num_available_cpus(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "versions": {
            package: version(package)
            for package in ("torch", "torchvision", "lightning", "av", "pillow")
        },
        "peers": peer_versions(),
    }


def now() -> str:
    """The time, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def processor_name() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def commit() -> str:
    """The commit of the checkout, with a + when files differ from it; empty outside a checkout."""
    words = [
        "git",
        "-C",
        str(REPOSITORY),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
