"""Compiled and checkpointed blocks learn what plain ones do, on the device."""

from functools import partial

import pytest
import torch
from torch import Tensor

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training.module import forgetting_generators
from lit_hour.training.parallelize import checkpoint_blocks, compile_blocks, transformer_blocks
from lit_hour.types import Batch
from tests.model.toy_model import LEFT, RED, batch_of, frames, sample, toy_model

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4  # of the largest gradient, in float32


@pytest.fixture
def batch(device: torch.device) -> Batch:
    return batch_of(sample(frames(12), (RED, LEFT)), sample(frames(9, 1), (LEFT,))).to(device)


def learn(model: HourLLaVA, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients."""
    loss = model.train()(batch, forgetting_generators(batch, 0)).loss
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: one.grad for name, one in named if one.grad is not None}


def check_same(found: HourLLaVA, plain: HourLLaVA, batch: Batch) -> None:
    (loss, gradients), (expected, wanted) = learn(found, batch), learn(plain, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert gradients.keys() == wanted.keys() and len(wanted) > 30
    for name, gradient in wanted.items():
        assert float((gradients[name] - gradient).abs().max()) < TOLERANCE * scale, name


def test_checkpointed_blocks(device: torch.device, batch: Batch) -> None:
    checkpointed = toy_model().to(device)
    checkpoint_blocks(transformer_blocks(checkpointed))
    check_same(checkpointed, toy_model().to(device), batch)


def test_compiled_blocks(
    device: torch.device, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = slice(None)
    if device.type == "cpu":  # one block of a kind, and no inductor, which takes half a minute
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        blocks = slice(1)
    compiled = toy_model().to(device)
    compile_blocks([*list(compiled.memaug.blocks)[blocks], *compiled.llm.layers[blocks]])
    check_same(compiled, toy_model().to(device), batch)
