"""Each backbone computes what its class in transformers computes, learns, and generates."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from lit_hour.config.model import LLMConfig, LoraConfig
from lit_hour.model.backbones import BACKBONES
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.training.parallelize import checkpoint_blocks
from tests.model.toy_model import LLM, NUM_TOKENS


def build(model_type: str, lora_rank: int = 0) -> LanguageModel:
    torch.manual_seed(0)
    config = replace(LLM, model_type=model_type, lora=LoraConfig(rank=lora_rank))
    return LanguageModel(config, NUM_TOKENS).eval()


def random_ids(num_texts: int, num_tokens: int) -> torch.Tensor:
    return torch.randint(
        0, NUM_TOKENS, (num_texts, num_tokens), generator=torch.Generator().manual_seed(0)
    )


def inputs_of(llm: LanguageModel, ids: torch.Tensor) -> LLMInputs:
    return LLMInputs(llm.embed(ids), ids, torch.ones_like(ids).bool())


def test_setting_lists_the_backbones() -> None:
    assert set(get_args(get_type_hints(LLMConfig)["model_type"])) == BACKBONES.keys()


@pytest.mark.parametrize("model_type", BACKBONES)
def test_loss_equals_that_of_transformers(model_type: str) -> None:
    llm, ids = build(model_type), random_ids(2, 17)
    assert type(llm.network) is BACKBONES[model_type].model_class
    with torch.no_grad():
        torch.testing.assert_close(
            llm.loss(inputs_of(llm, ids)), llm.network(input_ids=ids, labels=ids).loss
        )


@pytest.mark.parametrize("model_type", BACKBONES)
def test_generation_equals_that_of_transformers(model_type: str) -> None:
    llm, ids = build(model_type), random_ids(2, 9)
    generated = torch.stack(list(llm.generate(inputs_of(llm, ids), 6, end_id=-1)), dim=1)
    expected = llm.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(generated, expected[:, 9:])


@pytest.mark.parametrize("model_type", BACKBONES)
def test_only_adapters_learn_and_activation_checkpoints_change_nothing(model_type: str) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        llm = build(model_type, lora_rank=4)
        llm.requires_grad_(False)
        for parameter in llm.trainable_parameters():
            parameter.requires_grad_()
        if is_checkpointed:
            checkpoint_blocks(llm.layers)
        llm.loss(inputs_of(llm, random_ids(2, 17))).backward()
        learned = {
            name: weight.grad for name, weight in llm.named_parameters() if weight.grad is not None
        }
        assert len(learned) == 2 * 7 * LLM.num_layers  # two matrices for each linear layer
        assert all(".lora_" in name for name in learned)
        gradients.append(learned)
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name])


@pytest.mark.parametrize("model_type", BACKBONES)
def test_gradients_backpropagate_layer_by_layer(model_type: str) -> None:
    """The last gradient equals autograd's gradient of the embeddings."""
    llm, ids = build(model_type), random_ids(1, 12)
    prompt, answer = ids[:, :9], ids[0, 9:]
    *_, found = llm.backpropagate(inputs_of(llm, prompt), answer)
    embeddings = llm.embed(ids).detach().requires_grad_()
    logits = llm.network(inputs_embeds=embeddings).logits[0, 8:-1].float()
    (-F.cross_entropy(logits, answer, reduction="sum")).backward()
    torch.testing.assert_close(found, embeddings.grad, atol=1e-7, rtol=1e-4)
