"""Attention in bf16: every part of the model gets a fused kernel, and each kernel is accurate."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lit_hour.inference.precision import cast_weights
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.types import Features
from tests.gpu.kernels import FUSED, MATH, attention_kernels
from tests.model.toy_model import CONFIG, LEFT, RED, batch_of, frames, sample, toy_model

pytestmark = pytest.mark.gpu

HEADS, KEY_VALUE_HEADS, HEAD_DIM = 4, 2, 64
BF16_ERROR = 2e-2  # of the largest entry


def bf16_model(device: torch.device) -> HourLLaVA:
    """A toy model with heads as wide as fused kernels need."""
    sizes = {"hidden_size": HEADS * HEAD_DIM, "num_heads": HEADS, "intermediate_size": 256}
    language = replace(CONFIG.model.llm, **sizes, num_key_value_heads=KEY_VALUE_HEADS)
    model = toy_model(replace(CONFIG, model=replace(CONFIG.model, llm=language)))
    cast_weights(model, torch.bfloat16)
    return model.to(device)


def prompt(model: HourLLaVA, device: torch.device) -> LLMInputs:
    batch = batch_of(sample(frames(12), (RED,))).to(device)
    return model.build_inputs(batch, model.build_repositories(batch.visuals))


def run_of_part(part: str, model: HourLLaVA, device: torch.device) -> Callable[[], object]:
    """Return a call in which only one part of the model attends."""
    video = frames(12).to(device)
    if part == "vision encoder":
        return lambda: model.vision([video])
    (features,) = model.vision([video])
    batch = batch_of(sample(frames(12), (RED, LEFT), (LEFT,))).to(device)
    encoded = [Features(features.detach(), video.timestamps)]
    if part == "MemAug":
        return lambda: model.build_inputs(batch, model.build_repositories(encoded, lazy=True))
    inputs = prompt(model, device)
    detached = LLMInputs(inputs.embeddings.detach(), inputs.labels, inputs.attention_mask)
    if part == "language model, loss":
        return lambda: model.llm.loss(detached).backward()
    return lambda: list(model.llm.generate(detached, 2, end_id=-1))


PARTS = ("vision encoder", "MemAug", "language model, loss", "language model, generation")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_gets_a_fused_kernel(device: torch.device, part: str) -> None:
    model = bf16_model(device)
    kernels = attention_kernels(run_of_part(part, model, device))
    print(f"\nkernels of {part} on {device}: {', '.join(sorted(kernels))}")
    assert kernels and not any(name.startswith(MATH) for name in kernels)


@pytest.mark.parametrize("is_causal", (False, True), ids=("memory", "causal"))
def test_each_fused_kernel_equals_exact_attention(device: torch.device, is_causal: bool) -> None:
    torch.manual_seed(0)
    num_keys = 200 if is_causal else 777
    query, key, value = (
        torch.randn(1, KEY_VALUE_HEADS, rows, 128, dtype=torch.float64)
        for rows in (200, num_keys, num_keys)
    )  # (1, heads, rows, head_dim)
    expected = gradients(query, key, value, is_causal=is_causal)
    for backend in FUSED[device.type]:
        rounded = (tensor.to(device, torch.bfloat16) for tensor in (query, key, value))
        with sdpa_kernel(backend):
            found = gradients(*rounded, is_causal=is_causal)
        for ours, exact in zip(found, expected, strict=True):
            difference = float((ours.cpu().double() - exact).abs().max() / exact.abs().max())
            assert difference < BF16_ERROR, backend


def gradients(*tensors: Tensor, is_causal: bool) -> list[Tensor]:
    """Return the output of attention, and the gradients of query, key and value."""
    inputs = query, key, value = [tensor.clone().requires_grad_() for tensor in tensors]
    output = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]
