"""Planned memory equals the memory of real steps on CPUs, with 1, 2 and 4 ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_hour.config.load import load_config
from lit_hour.plan.estimate import estimate_run
from lit_hour.plan.gpus import build_cluster
from lit_hour.plan.longest_sample import LongestSample
from tests import CONF, REPOSITORY

pytestmark = pytest.mark.slow

TOLERANCE = 0.1  # of each phase's peak
SAMPLE = LongestSample("video", num_frames=40, num_text_tokens=64)
TINY: tuple[str, ...] = ()
MIDDLE = (  # 0.3 billion parameters
    "text.vocab_size=8192",
    "model.memaug.num_layers=2",
    "model.llm.hidden_size=1024",
    "model.llm.num_layers=16",
    "model.llm.num_heads=16",
    "model.llm.num_key_value_heads=4",
    "model.llm.intermediate_size=4096",
)
CHECKPOINTING = "training.activation_checkpointing=true"
RUNS: list[tuple[str, int, tuple[str, ...]]] = [
    ("tiny", 1, ()),
    ("tiny", 1, ("training.learning_rate.vision=0", "model.llm.lora.rank=4")),
    ("tiny", 2, ("training.strategy=ddp",)),
    ("tiny", 2, ("training.strategy=fsdp", "training.precision=bf16-mixed", CHECKPOINTING)),
]
EXHAUSTIVE_RUNS: list[tuple[str, int, tuple[str, ...]]] = [
    ("tiny", 1, (CHECKPOINTING,)),
    ("tiny", 1, ("training.precision=bf16-mixed",)),
    ("tiny", 1, ("training.precision=bf16-true", "training.packing=true")),
    ("tiny", 2, ("training.strategy=ddp", CHECKPOINTING)),
    ("tiny", 2, ("training.strategy=ddp", "data.micro_batch_size=1")),
    ("tiny", 2, ("training.strategy=fsdp",)),
    ("tiny", 4, ("training.strategy=ddp",)),
    ("tiny", 4, ("training.strategy=fsdp",)),
    ("tiny", 4, ("training.strategy=fsdp", CHECKPOINTING)),
    ("middle", 1, ()),
    ("middle", 1, (CHECKPOINTING,)),
    ("middle", 2, ("training.strategy=fsdp", CHECKPOINTING)),
    ("middle", 2, ("training.strategy=ddp",)),
    ("middle", 4, ("training.strategy=fsdp",)),
]


def name_of(run: tuple[str, int, tuple[str, ...]]) -> str:
    size, num_ranks, settings = run
    return f"{size}-{num_ranks}-{'-'.join(settings)}"


@pytest.mark.parametrize(
    ("size", "num_ranks", "settings"),
    [
        *(pytest.param(*run, id=name_of(run)) for run in RUNS),
        *(
            pytest.param(*run, id=name_of(run), marks=pytest.mark.exhaustive)
            for run in EXHAUSTIVE_RUNS
        ),
    ],
)
def test_planned_peaks_are_those_of_a_real_step(
    size: str, num_ranks: int, settings: tuple[str, ...], tmp_path: Path
) -> None:
    words = [
        f"run.folder={tmp_path}",
        f"training.devices={num_ranks}",
        f"data.micro_batch_size={4 // num_ranks}",
        *(MIDDLE if size == "middle" else TINY),
    ]
    words = [word for word in words if word.split("=")[0] not in dict_of(settings)]
    words += settings
    file = CONF / "tiny_model.yaml"
    config = load_config(file, words)
    planned = estimate_run(config, build_cluster("H100", num_ranks, 1), SAMPLE).trace
    measured = measure([str(file), *words], tmp_path)
    ratios = {phase: peak.total_bytes / measured[phase] for phase, peak in planned.peaks.items()}
    print(f"\n{size} {num_ranks} {' '.join(settings)}: {max(measured.values()) / 2**20:.1f} MiB,")
    print("  plan / measured", {phase: round(ratio, 3) for phase, ratio in ratios.items()})
    assert set(planned.peaks) == {"forward", "backward", "optimizer step"}
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=TOLERANCE)


def dict_of(settings: tuple[str, ...]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in settings)  # type: ignore[misc]


def measure(words: list[str], folder: Path) -> dict[str, int]:
    """Measure the peaks of rank 0 in fresh interpreters."""
    out = folder / "measured.json"
    command = [sys.executable, "-m", "tests.plan.measured_run", str(out)]
    subprocess.run(
        [*command, json.dumps(asdict(SAMPLE)), *words],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peaks: dict[str, int] = json.loads(out.read_text())
    return peaks
