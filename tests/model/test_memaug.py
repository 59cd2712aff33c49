import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_hour.model.memaug import MemoryAugmentation
from tests import REPOSITORY
from tests.model.published import read, translate_memory

FILES = ("memaug_a", "memaug_b", "memaug_c")
VARIANTS = {
    "default": (False, False),
    "explicit": (True, True),
    "mixed": (True, False),
}  # positions of query, of memory
TOLERANCE = {"memaug_a": 2e-4, "memaug_b": 2e-4, "memaug_c": 1e-4}
GRADIENT_TOLERANCE = 2e-5  # of the largest entry

PEAK_MEMORY = """
import resource, torch
from lit_hour.model.memaug import MemoryAugmentation

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
memaug = MemoryAugmentation(dim=16, num_heads=2, num_key_value_heads=1, num_layers=1, rope_theta=10_000.0)
for num_memory in (1_000, 100_000):
    before = peak_mib()
    query, memory = torch.randn(1_000, 16, requires_grad=True), torch.randn(num_memory, 16, requires_grad=True)
    memaug(query, memory, torch.arange(1_000), torch.arange(num_memory)).sum().backward()
print(peak_mib() - before)
"""


def published_memaug(
    golden: Path, name: str
) -> tuple[MemoryAugmentation, dict[str, Tensor], dict[str, Any]]:
    """MemAug with the recorded weights, the recorded tensors, and its sizes."""
    recorded, sidecar = read(golden, name)
    sizes = sidecar["config"]
    memaug = MemoryAugmentation(
        sizes["hidden_size"],
        sizes["num_attention_heads"],
        sizes["num_key_value_heads"],
        sizes["memaug_depth"],
        sizes["rope_theta"],
    )
    state = {
        name.removeprefix("state/"): weight
        for name, weight in recorded.items()
        if name.startswith("state/")
    }
    memaug.load_state_dict(translate_memory(state, memaug, sizes["hidden_size"]))
    return memaug, recorded, sizes


def positions_of(recorded: dict[str, Tensor], variant: str) -> tuple[Tensor, Tensor]:
    query_given, memory_given = VARIANTS[variant]
    return (
        recorded["q_position_ids"] if query_given else torch.arange(len(recorded["x_q"])),
        recorded["k_position_ids"] if memory_given else torch.arange(len(recorded["x_kv"])),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
def test_outputs_are_the_published_ones(golden: Path, name: str, variant: str) -> None:
    memaug, recorded, _ = published_memaug(golden, name)
    positions = positions_of(recorded, variant)
    with torch.no_grad():
        output = memaug(recorded["x_q"], recorded["x_kv"], *positions)
        exact = memaug.double()(recorded["x_q"].double(), recorded["x_kv"].double(), *positions)
    torch.testing.assert_close(output, recorded[f"{variant}/output"], atol=TOLERANCE[name], rtol=0)
    torch.testing.assert_close(exact, recorded[f"{variant}/output_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ("memaug_a", "memaug_b"))
def test_without_a_memory_each_block_looks_into_its_own_query(golden: Path, name: str) -> None:
    memaug, recorded, _ = published_memaug(golden, name)
    query = recorded["x_q"]
    with torch.no_grad():
        output = memaug(query, None, torch.arange(len(query)), None)
        exact = memaug.double()(query.double(), None, torch.arange(len(query)), None)
    torch.testing.assert_close(output, recorded["no_memory/output"], atol=TOLERANCE[name], rtol=0)
    torch.testing.assert_close(exact, recorded["no_memory/output_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", ("default", "explicit"))
@pytest.mark.parametrize("name", FILES)
def test_gradients_are_the_published_ones(golden: Path, name: str, variant: str) -> None:
    memaug, recorded, sizes = published_memaug(golden, name)
    query, memory = recorded["x_q"].requires_grad_(), recorded["x_kv"].requires_grad_()
    memaug(query, memory, *positions_of(recorded, variant)).square().sum().backward()
    found = {
        "x_q": query.grad,
        "x_kv": memory.grad,
        **{name: weight.grad for name, weight in memaug.named_parameters()},
    }
    prefix = f"{variant}/grad/"
    expected = {
        name.removeprefix(prefix): gradient
        for name, gradient in recorded.items()
        if name.startswith(prefix)
    }
    inputs = {name: expected.pop(name) for name in ("x_q", "x_kv")}
    expected = inputs | translate_memory(expected, memaug, sizes["hidden_size"])
    assert len(expected) > 2 or variant == "default"
    for key, gradient in expected.items():
        torch.testing.assert_close(
            found[key], gradient, atol=GRADIENT_TOLERANCE * float(gradient.abs().max()), rtol=0
        )


def test_memory_grows_with_the_video_and_not_with_query_times_video() -> None:
    """One matrix of 1,000 x 100,000 scores has 381 MiB for each of two heads; forward and backward need neither."""
    repository = REPOSITORY
    told = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(told.stdout) < 190


def test_half_precision_stays_near_single(golden: Path) -> None:
    memaug, recorded, _ = published_memaug(golden, "memaug_a")
    positions = positions_of(recorded, "explicit")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = memaug(recorded["x_q"], recorded["x_kv"], *positions)
    assert float((output.float() - recorded["explicit/output"]).abs().mean()) < 0.05


def test_it_starts_with_small_weights_and_no_biases() -> None:
    torch.manual_seed(0)
    memaug = MemoryAugmentation(64, 4, 2, 2, 10_000.0)
    linear = [module for module in memaug.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * (4 + 4 + 2)
    assert all(
        0.018 < float(layer.weight.detach().std()) < 0.022 and not layer.bias.any()
        for layer in linear
    )
