"""Frozen linear layers in int8 and int4: values, gradients, and which layers they are."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.model import LoraConfig
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.quantized_linear import QuantizedLinear, quantize_frozen_layers
from tests.weights.test_lora import LLM_CONFIG

KINDS = ("int8", "int4")


def group_range(weight: Tensor) -> Tensor:
    """Return the range of the 32 weights beside each weight, of its shape."""
    groups = weight.unflatten(1, (-1, 32))
    span = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    return span.expand_as(groups).flatten(1)


def test_weights_are_off_by_half_a_step_at_most() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    weight = linear.weight.detach()
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((QuantizedLinear(linear, "int8").weight - weight).abs() <= 0.501 * steps).all()
    half = group_range(weight) / 15
    # scale and minimum are rounded to float16
    assert ((QuantizedLinear(linear, "int4").weight - weight).abs() <= 0.501 * half + 2e-4).all()


def test_int4_is_exact_for_the_levels_that_it_has_and_for_constants() -> None:
    linear = nn.Linear(64, 2, bias=False)
    levels = torch.arange(16.0).repeat(2) * 0.25 - 1.5
    linear.weight.data = torch.stack([torch.cat([levels, levels.flip(0)]), torch.full((64,), 0.5)])
    assert torch.equal(QuantizedLinear(linear, "int4").weight, linear.weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_autocast", (False, True))
def test_output_and_gradient_are_those_of_the_dequantized_weight(
    kind: str, is_autocast: bool
) -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(64, 24), kind)  # type: ignore[arg-type]
    inputs = torch.randn(3, 5, 64, requires_grad=True)
    plain = inputs.detach().clone().requires_grad_()
    weight, bias = layer.weight, layer.bias
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        output, expected = layer(inputs), F.linear(plain, weight, bias)
    assert output.dtype == expected.dtype == (torch.bfloat16 if is_autocast else torch.float32)
    tolerance = {"atol": 0.03, "rtol": 0.03} if is_autocast else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(output, expected, **tolerance)
    output.float().square().sum().backward()
    expected.float().square().sum().backward()
    torch.testing.assert_close(inputs.grad, plain.grad, **tolerance)


@pytest.mark.parametrize(("kind", "bits"), (("int8", 8.6), ("int4", 5.1)))
def test_memory(kind: str, bits: float) -> None:
    layer = QuantizedLinear(nn.Linear(512, 64, bias=False), kind)  # type: ignore[arg-type]
    num_bytes = sum(buffer.nbytes for buffer in layer.buffers())
    assert 8 * num_bytes / (512 * 64) < bits and not layer.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_dora", (False, True))
def test_frozen_layers_are_quantized_and_adapters_learn(kind: str, use_dora: bool) -> None:
    lora = LoraConfig(rank=2, use_dora=use_dora, targets="q_proj,v_proj,down_proj")
    torch.manual_seed(0)
    model = LanguageModel(replace(LLM_CONFIG, quantize=kind, lora=lora), 50)  # type: ignore[arg-type]
    model.requires_grad_(False)
    for parameter in model.trainable_parameters():
        parameter.requires_grad_()
    embeddings = torch.randn(1, 7, 32)
    inputs = LLMInputs(embeddings, torch.arange(7)[None], torch.ones(1, 7, dtype=torch.bool))
    before = float(model.loss(inputs))
    model.quantize_frozen_layers()
    quantized = [name for name, one in model.named_modules() if isinstance(one, QuantizedLinear)]
    assert len(quantized) == 7 * 2 and sum(".base_layer" in name for name in quantized) == 3 * 2
    assert float(model.loss(inputs)) == pytest.approx(before, abs=0.05)
    model.loss(inputs).backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None}
    assert learned == {name for name, _ in model.named_parameters() if ".lora_" in name}
    model.quantize_frozen_layers()  # nothing is left
    assert quantize_frozen_layers(model.network.model.layers, "int8") == 0


def test_layer_whose_inputs_are_no_multiple_of_32_gets_int8() -> None:
    network = nn.ModuleDict({"odd": nn.Linear(48, 8), "even": nn.Linear(64, 8)})
    assert quantize_frozen_layers(network.requires_grad_(False), "int4") == 2
    assert network["odd"].minima is None and network["even"].minima is not None
