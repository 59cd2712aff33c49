from dataclasses import replace

import pytest
import torch

from lit_hour.config.model import LLMConfig, LoraConfig
from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.lora import reset_magnitudes
from lit_hour.model.meta_init import missing_weights
from tests.model.toy_model import CONFIG, LLM, NUM_TOKENS

LLMS = {
    "tied": replace(LLM, tie_word_embeddings=True),
    "untied": LLM,
    "lora": replace(LLM, lora=LoraConfig(rank=4)),
    "llama": replace(LLM, model_type="llama", lora=LoraConfig(rank=4)),
    "dora": replace(LLM, lora=LoraConfig(rank=4, use_dora=True)),
}
FAR = 777.0


def config_with(llm: LLMConfig) -> Config:
    memaug = replace(CONFIG.model.memaug, initial_output_std=0.5)
    return replace(CONFIG, model=replace(CONFIG.model, llm=llm, memaug=memaug))


def materialized_model(config: Config) -> HourLLaVA:
    """Build a model on the meta device and materialize it, with weights far from any random one."""
    with torch.device("meta"):
        model = HourLLaVA.from_config(config, NUM_TOKENS)
    model.materialize("cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(FAR)
    return model


def load(model: HourLLaVA, loaded: set[str], seed: int = 0) -> None:
    with torch.no_grad():
        for name, weight in missing_weights(model, loaded, seed):
            model.state_dict()[name].copy_(weight)
    reset_magnitudes(model.llm)  # of DoRA


@pytest.mark.parametrize("llm", LLMS.values(), ids=LLMS)
def test_materialized_model_equals_a_plain_one_but_for_its_weights(llm: LLMConfig) -> None:
    config = config_with(llm)
    plain, model = HourLLaVA.from_config(config, NUM_TOKENS), materialized_model(config)
    buffers = dict(model.named_buffers())
    assert {name for name, _ in plain.named_buffers()} == buffers.keys() and buffers
    assert all(torch.equal(buffers[name], expected) for name, expected in plain.named_buffers())
    names, expected_names = ([name for name, _ in one.named_parameters()] for one in (model, plain))
    assert names == expected_names
    model.load_state_dict(plain.state_dict())
    ids = torch.arange(6)[None]  # (1, tokens)
    assert torch.equal(model.llm.embed(ids), plain.llm.embed(ids))


@pytest.mark.parametrize("llm", LLMS.values(), ids=LLMS)
def test_missing_weights_are_distributed_as_those_of_a_new_model(llm: LLMConfig) -> None:
    config = config_with(replace(llm, hidden_size=64, intermediate_size=96))
    plain, model = HourLLaVA.from_config(config, NUM_TOKENS), materialized_model(config)
    load(model, set())
    weights = dict(model.named_parameters())
    for name, expected in plain.named_parameters():
        found = weights[name]
        if (expected == expected.flatten()[0]).all():
            assert torch.equal(found, expected), name
            continue
        assert not torch.equal(found, expected), name
        chance = 1 / expected.numel() ** 0.5
        ratio, shift = found.std() / expected.std(), found.mean() - expected.mean()
        assert float(ratio) == pytest.approx(1, abs=max(0.05, 5 * chance)), name
        assert abs(float(shift)) < 7 * float(expected.std()) * chance, name


def test_missing_weight_depends_only_on_the_seed_and_its_name() -> None:
    config = config_with(LLMS["tied"])
    one, other, reseeded = (materialized_model(config) for _ in range(3))
    load(one, set())
    loaded = {name for name, _ in one.named_parameters() if not name.startswith("memaug.blocks.1.")}
    torch.manual_seed(5)
    load(other, loaded)
    load(reseeded, loaded, seed=1)
    for name, weight in other.named_parameters():
        is_untouched = bool((weight == FAR).all())
        assert is_untouched if name in loaded else torch.equal(weight, one.get_parameter(name)), (
            name
        )
    name = "memaug.blocks.1.feed_forward.0.weight"
    assert not torch.equal(reseeded.get_parameter(name), one.get_parameter(name))
