from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import MemAugQuery, MemoryAugmentation
from lit_hour.model.memory_repository import build_video_repository
from lit_hour.training.parallelize import checkpoint_blocks, compile_blocks, transformer_blocks
from tests.helpers.toy_run import ToyProject

DIM = 16


def memaug(change: Callable[[list[nn.Module]], None] | None = None) -> MemoryAugmentation:
    torch.manual_seed(0)
    model = MemoryAugmentation(
        DIM, num_heads=2, num_key_value_heads=1, num_layers=3, rope_theta=10_000.0
    )
    if change:
        change(list(model.blocks))
    return model


def learn(model: MemoryAugmentation) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return output, gradients, and the bytes saved for the backward pass."""
    torch.manual_seed(1)
    query = torch.randn(12, DIM, requires_grad=True)  # (query, dim)
    texts = [
        MemAugQuery(tokens, torch.arange(6), torch.ones(6, dtype=torch.bool), [6])
        for tokens in query.split(6)
    ]
    repository = build_video_repository(
        torch.randn(6, 4, DIM), torch.randn(DIM), torch.arange(6.0), min_frames=1
    )
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = torch.cat(model(texts, [repository], [0, 0]))  # (query, dim)
    output.square().sum().backward()
    return (
        output.detach(),
        {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None},
        sum(kept.values()),
    )


def check_same(changed: MemoryAugmentation, plain: MemoryAugmentation) -> tuple[int, int]:
    """Compare output and gradients, and return the bytes that both save for the backward pass."""
    (found, gradients, few), (expected, wanted, many) = learn(changed), learn(plain)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == wanted.keys() and len(gradients) > 20
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-4)
    assert list(changed.state_dict()) == list(plain.state_dict())
    return few, many


def test_activation_checkpointing_saves_memory_and_keeps_gradients() -> None:
    few, many = check_same(memaug(checkpoint_blocks), memaug())
    assert few < many / 4


@pytest.mark.slow
@pytest.mark.exhaustive
def test_compiled_and_checkpointed_blocks_compute_the_same() -> None:
    def change(blocks: list[nn.Module]) -> None:
        compile_blocks(blocks)
        checkpoint_blocks(blocks)

    check_same(memaug(change), memaug())
    # Without graph breaks; the last block, which computes fewer tokens, has a graph of its own.
    assert counters["stats"]["unique_graphs"] == 2


def test_compiled_blocks_run_eagerly_without_gradients() -> None:
    layer = nn.Module()
    layer.forward = lambda tokens: (tokens, torch.compiler.is_compiling())
    compile_blocks([layer])
    counters.clear()
    with torch.no_grad():
        assert layer(torch.ones(2)) == (pytest.approx(torch.ones(2)), False)
    assert not counters["stats"]


@pytest.mark.parametrize(
    "tower", ["lit-hour-tiny", pytest.param("ViT-SO400M-14-SigLIP-384", marks=pytest.mark.slow)]
)
def test_transformer_blocks_cover_every_part(toy: ToyProject, tower: str) -> None:
    size = 64 if tower == "lit-hour-tiny" else 384
    config = toy.config("none", f"model.vision.name={tower}", f"video.image_size={size}")
    with torch.device("meta"):
        model = HourLLaVA.from_config(config, 300)
    blocks = transformer_blocks(model)
    num_tower = len(model.vision.blocks)
    assert num_tower == (1 if tower == "lit-hour-tiny" else 27)
    assert len(blocks) == num_tower + 2
    in_blocks = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert in_blocks > 0.4 * sum(parameter.numel() for parameter in model.parameters())
