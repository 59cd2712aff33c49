from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.config.model import LLMConfig, LoraConfig
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.lora import reset_magnitudes
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
VARIANTS = {
    "lora": LORA,
    "rslora": replace(LORA, use_rslora=True),
    "dora": replace(LORA, use_dora=True, targets="v_proj,o_proj"),
}


def adapted_model(lora: LoraConfig = LORA) -> LanguageModel:
    """Return a model with LoRA adapters that change its output."""
    torch.manual_seed(0)
    model = LanguageModel(replace(LLM_CONFIG, lora=lora), 50).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.uniform_(1.0, 3.0)
            elif "lora_" in name:
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_model_equals_adapted_model(variant: str) -> None:
    lora = VARIANTS[variant]
    adapted, plain = adapted_model(lora), LanguageModel(LLM_CONFIG, 50).eval()
    merged = merge_adapters(stored_weights(adapted), lora)
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_adapters_do_not_change_the_output(variant: str) -> None:
    """DoRA's magnitudes belong to the loaded weights, not to the random ones."""
    plain = LanguageModel(LLM_CONFIG, 50).eval()
    adapted = LanguageModel(replace(LLM_CONFIG, lora=VARIANTS[variant]), 50).eval()
    weights = plain.state_dict()
    load_into(
        adapted,
        (
            (name, 3 * weights[plain_name(name) or ""])
            for name in adapted.state_dict()
            if plain_name(name)
        ),
    )
    reset_magnitudes(adapted)
    load_into(plain, ((name, 3 * weight.clone()) for name, weight in weights.items()))
    torch.testing.assert_close(logits(adapted), logits(plain), atol=1e-4, rtol=1e-5)


def test_only_the_targets_have_adapters_and_the_base_may_be_bf16() -> None:
    lora = LoraConfig(rank=2, targets="v_proj,q_proj", base_precision="bf16")
    model = LanguageModel(replace(LLM_CONFIG, lora=lora), 50)
    dtypes: dict[str, set[torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        kind = "lora" if ".lora_" in name else "base" if ".base_layer." in name else "rest"
        dtypes.setdefault(kind, set()).add(parameter.dtype)
    assert dtypes == {"lora": {torch.float32}, "base": {torch.bfloat16}, "rest": {torch.float32}}
    adapted = {name.split(".")[5] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_bf16_base_learns_as_autocast_of_a_float32_base() -> None:
    """Autocast rounds float32 weights to bf16 in each step, so nothing else is computed."""
    gradients = []
    for base_precision in ("fp32", "bf16"):
        model = adapted_model(replace(LORA, base_precision=base_precision))  # type: ignore[arg-type]
        embeddings = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
        mask, labels = torch.ones(1, 7, dtype=torch.bool), torch.arange(7)[None]
        with torch.autocast("cpu", torch.bfloat16):
            model.loss(LLMInputs(embeddings, labels, mask)).backward()
        gradients.append(
            {name: one.grad for name, one in model.named_parameters() if "lora" in name}
        )
    assert len(gradients[0]) == 2 * 7 * 2
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
