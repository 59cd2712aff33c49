"""The last layer is computed only where a token is learned, with the same result."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.training.parallelize import checkpoint_blocks, transformer_blocks
from tests.model.test_packed_attention import LORA, texts
from tests.model.toy_model import CONFIG, LLM, toy_model

TOLERANCE = 1e-13  # relative to the largest gradient's norm, in float64
LENGTHS = [(5, 31, 17), (12,), (1, 40, 2)]
LLAMA = replace(CONFIG, model=replace(CONFIG.model, llm=replace(LLM, model_type="llama")))


def complete_loss(llm: LanguageModel, inputs: LLMInputs) -> Tensor:
    """Compute all tokens of all layers, and drop those without a label before the logits."""
    output = llm.network.model(inputs_embeds=inputs.embeddings, use_cache=False)
    hidden = output.last_hidden_state[:, :-1][inputs.is_target]  # (targets, dim)
    targets = inputs.labels[:, 1:][inputs.is_target]  # (targets,)
    logits = llm.network.lm_head(hidden).float()  # (targets, vocabulary), as in the loss
    return F.cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))


def double_model(config: Config = CONFIG) -> HourLLaVA:
    model = toy_model(config).double()
    model.llm.reset_nonpersistent_buffers()
    return model


def double_texts(*lengths: int, has_few_labels: bool = True) -> LLMInputs:
    """Return random texts; with few labels the last layer attends from the predicting tokens."""
    inputs = texts(*lengths)
    if has_few_labels:
        inputs.labels[:, torch.arange(inputs.labels.shape[1]) % 4 != 1] = -100
    embeddings = inputs.embeddings.double().requires_grad_()  # (texts, tokens, dim)
    return LLMInputs(embeddings, inputs.labels, inputs.attention_mask)


def learn(llm: LanguageModel, loss: Tensor, inputs: LLMInputs) -> dict[str, Tensor]:
    loss.backward()
    tensors = {**dict(llm.named_parameters()), "embeddings": inputs.embeddings}
    gradients = {name: one.grad for name, one in tensors.items() if one.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("has_few_labels", (True, False), ids=("few labels", "most labels"))
@pytest.mark.parametrize("packs", (False, True), ids=("padded", "packed"))
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("config", (CONFIG, LLAMA), ids=("qwen2", "llama"))
def test_loss_and_gradients_equal_the_complete_computation(
    config: Config, lengths: tuple[int, ...], packs: bool, has_few_labels: bool
) -> None:
    expected_llm, llm = double_model(config).llm, double_model(config).llm
    if packs:
        llm.pack_texts()
    expected_inputs, inputs = (
        double_texts(*lengths, has_few_labels=has_few_labels) for _ in range(2)
    )
    expected = learn(expected_llm, complete_loss(expected_llm, expected_inputs), expected_inputs)
    found = learn(llm, llm.loss(inputs), inputs)
    check_same(found, expected)


@pytest.mark.parametrize("has_few_labels", (True, False), ids=("few labels", "most labels"))
def test_adapters_and_activation_checkpointing_keep_the_result(has_few_labels: bool) -> None:
    plain, checkpointed = double_model(LORA), double_model(LORA)
    checkpoint_blocks(transformer_blocks(checkpointed))
    expected_inputs, inputs = (
        double_texts(5, 31, 17, has_few_labels=has_few_labels) for _ in range(2)
    )
    loss = complete_loss(plain.llm, expected_inputs)
    expected = learn(plain.llm, loss, expected_inputs)
    check_same(learn(checkpointed.llm, checkpointed.llm.loss(inputs), inputs), expected)


def test_autocast_differs_by_its_rounding() -> None:
    inputs = double_texts(5, 31, 17)
    inputs = LLMInputs(inputs.embeddings.float(), inputs.labels, inputs.attention_mask)
    llm = toy_model().llm
    with torch.autocast("cpu", torch.bfloat16):
        found = llm.loss(inputs)
    torch.testing.assert_close(found, complete_loss(llm, inputs), rtol=5e-3, atol=0)


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(expected) > 10
    scale = max(float(tensor.norm()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm()) <= TOLERANCE * scale, name


@pytest.mark.parametrize("packs", (False, True), ids=("padded", "packed"))
def test_last_layer_computes_only_keys_and_values_of_other_tokens(packs: bool) -> None:
    llm = toy_model().llm
    if packs:
        llm.pack_texts()
    num_rows: list[dict[str, int]] = [{} for _ in llm.layers]
    for counts, layer in zip(num_rows, llm.layers, strict=True):
        for name, part in layer.named_modules():
            part.register_forward_pre_hook(
                lambda _, args, name=name, counts=counts: counts.update(  # type: ignore[misc]
                    {name: args[0].shape[:-1].numel()} if args else {}
                )
            )
    inputs = double_texts(5, 31, 17)
    inputs = LLMInputs(inputs.embeddings.float(), inputs.labels, inputs.attention_mask)
    llm.loss(inputs)
    num_tokens = 5 + 31 + 17 if packs else 3 * 31
    num_predicting = int(inputs.is_target.sum())
    num_queries = num_tokens if packs else 3 * int(inputs.is_target.sum(dim=1).max())
    assert num_predicting < num_queries
    first, *_, last = num_rows
    assert first["self_attn.q_proj"] == first["mlp"] == num_tokens
    assert last["self_attn.k_proj"] == last["self_attn.v_proj"] == num_tokens
    assert last["self_attn.q_proj"] == num_queries
    assert last["self_attn.o_proj"] == (num_tokens if packs else num_predicting)
    assert last["mlp"] == last["post_attention_layernorm"] == num_predicting
    llm.logits(inputs)
    assert last["mlp"] == last["self_attn.q_proj"] == 3 * 31


def test_copied_model_has_the_same_loss() -> None:
    llm = toy_model().llm
    assert torch.equal(copy.deepcopy(llm).loss(texts(5, 31)), llm.loss(texts(5, 31)))
