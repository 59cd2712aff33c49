"""The FFN of the last layer is computed only where a token is learned, with the same result."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.training.parallelize import checkpoint_blocks, transformer_blocks
from tests.model.test_packed_attention import LORA, texts
from tests.model.toy_model import CONFIG, LLM, toy_model

TOLERANCE = 1e-13  # relative to the largest gradient's norm, in float64
LENGTHS = [(5, 31, 17), (12,), (1, 40, 2)]


def complete_loss(llm: LanguageModel, inputs: LLMInputs) -> Tensor:
    """Compute all tokens of all layers, and drop those without a label before the logits."""
    output = llm.network.model(inputs_embeds=inputs.embeddings, use_cache=False)
    hidden = output.last_hidden_state[:, :-1][inputs.is_target]  # (targets, dim)
    targets = inputs.labels[:, 1:][inputs.is_target]  # (targets,)
    logits = llm.network.lm_head(hidden).float()  # (targets, vocabulary), as in the loss
    return F.cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))


def double_model(config=CONFIG) -> HourLLaVA:  # type: ignore[no-untyped-def]
    model = toy_model(config).double()
    model.llm.reset_nonpersistent_buffers()
    return model


def double_texts(*lengths: int) -> LLMInputs:
    inputs = texts(*lengths)
    embeddings = inputs.embeddings.double().requires_grad_()  # (texts, tokens, dim)
    return LLMInputs(embeddings, inputs.labels, inputs.attention_mask)


def learn(llm: LanguageModel, loss: Tensor, inputs: LLMInputs) -> dict[str, Tensor]:
    loss.backward()
    tensors = {**dict(llm.named_parameters()), "embeddings": inputs.embeddings}
    gradients = {name: one.grad for name, one in tensors.items() if one.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("packs", (False, True), ids=("padded", "packed"))
@pytest.mark.parametrize("lengths", LENGTHS)
def test_loss_and_gradients_equal_the_complete_computation(
    lengths: tuple[int, ...], packs: bool
) -> None:
    expected_llm, llm = double_model().llm, double_model().llm
    if packs:
        llm.pack_texts()
    expected_inputs, inputs = double_texts(*lengths), double_texts(*lengths)
    expected = learn(expected_llm, complete_loss(expected_llm, expected_inputs), expected_inputs)
    found = learn(llm, llm.loss(inputs), inputs)
    check_same(found, expected)


def test_adapters_and_activation_checkpointing_keep_the_result() -> None:
    plain, checkpointed = double_model(LORA), double_model(LORA)
    checkpoint_blocks(transformer_blocks(checkpointed))
    expected_inputs, inputs = double_texts(5, 31, 17), double_texts(5, 31, 17)
    loss = complete_loss(plain.llm, expected_inputs)
    expected = learn(plain.llm, loss, expected_inputs)
    check_same(learn(checkpointed.llm, checkpointed.llm.loss(inputs), inputs), expected)


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(expected) > 10
    scale = max(float(tensor.norm()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm()) <= TOLERANCE * scale, name


@pytest.mark.parametrize("packs", (False, True), ids=("padded", "packed"))
def test_last_ffn_gets_only_the_tokens_that_predict_a_label(packs: bool) -> None:
    llm = toy_model().llm
    if packs:
        llm.pack_texts()
    num_rows: list[int] = []
    for layer in llm.layers:
        layer.mlp.register_forward_hook(  # type: ignore[union-attr, operator]
            lambda _, args, __: num_rows.append(args[0].shape[:-1].numel())
        )
    inputs = texts(5, 31, 17)
    llm.loss(inputs)
    num_tokens = 5 + 31 + 17 if packs else 3 * 31
    assert num_rows == [num_tokens] * (LLM.num_layers - 1) + [int(inputs.is_target.sum())]
    num_rows.clear()
    llm.logits(inputs)
    assert num_rows == [3 * 31] * LLM.num_layers


def test_copied_model_has_the_same_loss() -> None:
    llm = toy_model().llm
    assert torch.equal(copy.deepcopy(llm).loss(texts(5, 31)), llm.loss(texts(5, 31)))
