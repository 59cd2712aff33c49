from dataclasses import replace
from pathlib import Path

import torch

from lit_hour.config.model import LLMConfig, LoraConfig
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.weights.name_map import merge_adapters, plain_name
from lit_hour.weights.reader import StoredWeights, load_into
from tests.weights.factories import shapes_of

LLM_CONFIG = LLMConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    tie_word_embeddings=False,
)

LORA = LoraConfig(rank=3, alpha=7.0)


def adapted_model() -> LanguageModel:
    """Return a model with LoRA adapters that change its output."""
    torch.manual_seed(0)
    model = LanguageModel(replace(LLM_CONFIG, lora=LORA), 50).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model


def stored_weights(model: LanguageModel) -> StoredWeights:
    state = dict(model.state_dict())
    return StoredWeights(
        Path("made"), {name: weight.to("meta") for name, weight in state.items()}, state.__getitem__
    )


def logits(model: LanguageModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(1, 7, 32, generator=generator)  # (1, tokens, dim)
    mask = torch.ones(1, 7, dtype=torch.bool)
    with torch.no_grad():
        return model.logits(LLMInputs(embeddings, torch.zeros(1, 7, dtype=torch.long), mask))


def test_merged_model_equals_adapted_model() -> None:
    adapted, plain = adapted_model(), LanguageModel(LLM_CONFIG, 50).eval()
    merged = merge_adapters(stored_weights(adapted), LORA)
    assert shapes_of(merged.meta_tensors) == shapes_of(plain.state_dict())
    load_into(plain, merged.tensors())
    torch.testing.assert_close(logits(plain), logits(adapted), atol=1e-5, rtol=1e-4)
    without = LanguageModel(LLM_CONFIG, 50).eval()
    base = stored_weights(adapted)
    load_into(
        without,
        (
            (plain_name(name) or "", base.read(name))
            for name in base.meta_tensors
            if plain_name(name)
        ),
    )
    assert (
        float((logits(without) - logits(adapted)).abs().max()) > 0.1
    )  # the adapters change the output


def test_merge_without_adapters_changes_nothing() -> None:
    model = LanguageModel(LLM_CONFIG, 50)
    merged = merge_adapters(stored_weights(model), LoraConfig())
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in merged.tensors())
    assert shapes_of(merged.meta_tensors) == shapes_of(model.state_dict())


def test_merged_weight_keeps_its_dtype() -> None:
    merged = merge_adapters(stored_weights(adapted_model().to(torch.bfloat16)), LORA)
    for name, weight in merged.tensors():
        assert weight.dtype == merged.meta_tensors[name].dtype == torch.bfloat16
