import resource
from pathlib import Path

import pytest
import torch

from lit_hour.model.memaug import MemoryAugmentation
from tests.helpers.fork import fork_ranks
from tests.model.published_model import (
    MEMAUG_FILES,
    MEMAUG_VARIANTS,
    memaug_positions,
    published_memaug,
    translate_memaug,
)
from tests.model.toy_model import augment

TOLERANCE = {"memaug_a": 2e-4, "memaug_b": 2e-4, "memaug_c": 1e-4}
GRADIENT_TOLERANCE = 2e-5  # relative to the largest entry


def print_peak_memory_growth() -> None:
    """Print by how many MiB the peak of this process grows with 60 times as many memory tokens."""

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.set_num_threads(1)
    memaug = MemoryAugmentation(
        16, num_heads=2, num_key_value_heads=1, num_layers=1, rope_theta=1e4
    )
    for num_memory in (1_000, 60_000):
        before = peak_mib()
        query, memory = (torch.randn(num, 16, requires_grad=True) for num in (1_000, num_memory))
        augment(memaug, query, memory, range(1_000), range(num_memory)).sum().backward()
    print(peak_mib() - before)


@pytest.mark.parametrize("variant", MEMAUG_VARIANTS)
@pytest.mark.parametrize("name", MEMAUG_FILES)
def test_memaug_output_equals_published(golden: Path, name: str, variant: str) -> None:
    memaug, recorded, _ = published_memaug(golden, name)
    query, memory = recorded["x_q"], recorded["x_kv"]
    positions = memaug_positions(recorded, variant)
    with torch.no_grad():
        output = augment(memaug, query, memory, *positions)
        exact = augment(memaug.double(), query.double(), memory.double(), *positions)
    torch.testing.assert_close(output, recorded[f"{variant}/output"], atol=TOLERANCE[name], rtol=0)
    torch.testing.assert_close(exact, recorded[f"{variant}/output_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ("memaug_a", "memaug_b"))
def test_memaug_output_without_memory_equals_published(golden: Path, name: str) -> None:
    memaug, recorded, _ = published_memaug(golden, name, use_full_memory=False)
    query = recorded["x_q"]
    unused, positions = torch.randn(3, query.shape[1]), range(len(query))
    with torch.no_grad():
        output = augment(memaug, query, unused, positions, range(3))
        exact = augment(memaug.double(), query.double(), unused.double(), positions, range(3))
    torch.testing.assert_close(output, recorded["no_memory/output"], atol=TOLERANCE[name], rtol=0)
    torch.testing.assert_close(exact, recorded["no_memory/output_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", ("default", "explicit"))
@pytest.mark.parametrize("name", MEMAUG_FILES)
def test_memaug_gradients_equal_published(golden: Path, name: str, variant: str) -> None:
    memaug, recorded, sizes = published_memaug(golden, name)
    query, memory = recorded["x_q"].requires_grad_(), recorded["x_kv"].requires_grad_()
    augment(memaug, query, memory, *memaug_positions(recorded, variant)).square().sum().backward()
    gradients = {name: weight.grad for name, weight in memaug.named_parameters()}
    gradients |= {"x_q": query.grad, "x_kv": memory.grad}
    prefix = f"{variant}/grad/"
    expected = {
        name.removeprefix(prefix): gradient
        for name, gradient in recorded.items()
        if name.startswith(prefix)
    }
    inputs = {name: expected.pop(name) for name in ("x_q", "x_kv")}
    expected = inputs | translate_memaug(expected, memaug, sizes["hidden_size"])
    assert len(expected) > 2 or variant == "default"
    for key, gradient in expected.items():
        tolerance = GRADIENT_TOLERANCE * float(gradient.abs().max())
        torch.testing.assert_close(gradients[key], gradient, atol=tolerance, rtol=0)


def test_memaug_ram_does_not_grow_with_query_times_memory(tmp_path: Path) -> None:
    """A matrix of 1,000 x 60,000 scores takes 229 MiB for each of two heads; none is allocated."""
    process = fork_ranks(lambda _: print_peak_memory_growth(), [tmp_path / "growth.txt"])
    assert process.wait() == [0], process.output()
    assert float(process.output()) < 115


def test_memaug_in_bfloat16_is_near_float32(golden: Path) -> None:
    memaug, recorded, _ = published_memaug(golden, "memaug_a")
    positions = memaug_positions(recorded, "explicit")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = augment(memaug, recorded["x_q"], recorded["x_kv"], *positions)
    assert float((output.float() - recorded["explicit/output"]).abs().mean()) < 0.05


def test_memaug_starts_with_small_weights_and_zero_biases() -> None:
    torch.manual_seed(0)
    memaug = MemoryAugmentation(64, 4, 2, 2, 10_000.0)
    linear = [module for module in memaug.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * (4 + 4 + 2)
    for layer in linear:
        assert 0.018 < float(layer.weight.detach().std()) < 0.022 and not layer.bias.any()


def test_initial_output_has_the_configured_deviation() -> None:
    torch.manual_seed(0)
    query, memory = torch.randn(40, 32), torch.randn(90, 32)
    for std in (1.0, 0.25):
        memaug = MemoryAugmentation(32, 4, 2, 2, 10_000.0, initial_output_std=std)
        augmented = augment(memaug, query, memory, range(40), range(90))
        torch.testing.assert_close(augmented.std(), torch.tensor(std), atol=0.02 * std, rtol=0)
