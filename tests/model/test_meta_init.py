from dataclasses import replace

import pytest
import torch

from lit_hour.config.model import LLMConfig, LoraConfig
from lit_hour.config.schema import Config, RunConfig
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.meta_init import init_missing_weights, materialize
from tests.model.small import CONFIG, LANGUAGE, VOCABULARY_SIZE

TIED = replace(LANGUAGE, tie_word_embeddings=True)
ADAPTED = replace(LANGUAGE, lora=LoraConfig(rank=4))
FAR = 777.0


def with_language(settings: LLMConfig) -> Config:
    return replace(CONFIG, model=replace(CONFIG.model, llm=settings))


def empty_model(config: Config) -> HourLLaVA:
    """Built without data, then given memory; each weight lies far from any that is drawn."""
    with torch.device("meta"):
        model = HourLLaVA(config, VOCABULARY_SIZE)
    materialize(model, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(FAR)
    return model


@pytest.mark.parametrize("language", [TIED, LANGUAGE, ADAPTED], ids=["tied", "untied", "adapted"])
def test_it_is_the_plain_model_but_for_its_weights(language: LLMConfig) -> None:
    config = with_language(language)
    plain, model = HourLLaVA(config, VOCABULARY_SIZE), empty_model(config)
    buffers = dict(model.named_buffers())
    assert {name for name, _ in plain.named_buffers()} == buffers.keys() and buffers
    assert all(torch.equal(buffers[name], expected) for name, expected in plain.named_buffers())
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    model.load_state_dict(plain.state_dict())
    ids = torch.arange(6)[None]  # (1, tokens)
    assert torch.equal(model.llm.embed(ids), plain.llm.embed(ids))


@pytest.mark.parametrize("language", [TIED, LANGUAGE, ADAPTED], ids=["tied", "untied", "adapted"])
def test_weights_are_drawn_as_those_of_a_new_model(language: LLMConfig) -> None:
    config = with_language(replace(language, hidden_size=64, intermediate_size=96))
    plain, model = HourLLaVA(config, VOCABULARY_SIZE), empty_model(config)
    init_missing_weights(model, config, loaded=())
    drawn = dict(model.named_parameters())
    for name, expected in plain.named_parameters():
        found = drawn[name]
        is_constant = bool((expected == expected.flatten()[0]).all())
        if is_constant:
            assert torch.equal(found, expected), name
        else:
            assert not torch.equal(found, expected)
            spread = (
                5 / expected.numel() ** 0.5
            )  # five times what chance does to a standard deviation, roughly
            assert float(found.std() / expected.std()) == pytest.approx(1, abs=max(0.05, spread)), (
                name
            )
            assert (
                abs(float(found.mean() - expected.mean()))
                < 7 * float(expected.std()) / expected.numel() ** 0.5
            ), name


def test_a_weight_depends_on_the_seed_and_its_name_alone() -> None:
    config = with_language(TIED)
    one, other, reseeded = (empty_model(config) for _ in range(3))
    init_missing_weights(one, config, loaded=())
    known = {name for name, _ in one.named_parameters() if not name.startswith("memaug.blocks.1.")}
    torch.manual_seed(5)
    init_missing_weights(other, config, known)
    init_missing_weights(reseeded, replace(config, run=RunConfig(seed=1)), known)
    for name, weight in other.named_parameters():
        assert (
            (weight == FAR).all() if name in known else torch.equal(weight, one.get_parameter(name))
        ), name
    name = "memaug.blocks.1.feed_forward.0.weight"
    assert not torch.equal(reseeded.get_parameter(name), one.get_parameter(name))
