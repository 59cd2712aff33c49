"""Adapters in peft's folder layout: written for peft, and read from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_hour.cli.main import main
from lit_hour.config.load import save_config
from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.model.language_model import LanguageModel
from lit_hour.weights.name_map import plain_name
from lit_hour.weights.peft_adapter import ADAPTER_CONFIG, adapter_settings, open_adapter
from lit_hour.weights.peft_export import export_adapter
from lit_hour.weights.pretrained import config_for_new_run
from lit_hour.weights.reader import load_into
from tests.weights.test_lora import LLM_CONFIG, LORA, VARIANTS, adapted_model, logits

LLM_PREFIX = "llm.network."


def plain_network(weights: Mapping[str, Tensor] | None = None) -> Qwen2ForCausalLM:
    """Return transformers' model of these sizes, with the frozen weights of an adapted one."""
    sizes = {
        name: value
        for name, value in asdict(LLM_CONFIG).items()
        if name in ("hidden_size", "intermediate_size", "rms_norm_eps", "tie_word_embeddings")
    }
    network = Qwen2ForCausalLM(
        Qwen2Config(
            **sizes,
            vocab_size=50,
            num_hidden_layers=LLM_CONFIG.num_layers,
            num_attention_heads=LLM_CONFIG.num_heads,
            num_key_value_heads=LLM_CONFIG.num_key_value_heads,
            rope_parameters={"rope_type": "default", "rope_theta": LLM_CONFIG.rope_theta},
        )
    )
    for name, weight in (weights or {}).items():
        if plain := plain_name(name):
            network.get_parameter(plain.removeprefix("network.")).data.copy_(weight)
    return network.eval()


def network_logits(network: nn.Module) -> Tensor:
    """Return the logits of the embeddings of `logits`, (1, 7, 50)."""
    embeddings = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(inputs_embeds=embeddings).logits


def write_run(folder: Path, model: LanguageModel, lora: LoraConfig) -> Path:
    """Write a run with one checkpoint of a language model; the other parts are left out."""
    config = Config(model=replace(Config().model, llm=replace(LLM_CONFIG, lora=lora)))
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"model.llm.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 1}, folder / "checkpoints/best.ckpt")
    save_config(config, folder / "checkpoints/best.yaml")
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_loads_exported_adapters_with_equal_logits(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = VARIANTS[variant]
    model, out = adapted_model(lora), tmp_path / "out"
    main(["convert", "--adapter", str(write_run(tmp_path / "run", model, lora)), str(out)])
    assert f"model.llm.lora.path={out}" in capsys.readouterr().out
    loaded = peft.PeftModel.from_pretrained(plain_network(model.state_dict()), str(out))
    torch.testing.assert_close(network_logits(loaded), logits(model), atol=1e-5, rtol=1e-5)
    assert LoraConfig(**adapter_settings(out)) == lora
    state = {f"llm.{name}": weight for name, weight in model.state_dict().items()}
    read = dict(open_adapter(out, state).tensors())
    assert read.keys() == {name for name in state if ".lora_" in name}
    assert all(torch.equal(weight, state[name]) for name, weight in read.items())


@pytest.mark.parametrize("use_dora", (False, True))
def test_adapter_that_peft_saved_is_read_with_equal_logits(use_dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = plain_network()
    base = {name: weight.clone() for name, weight in network.state_dict().items()}
    settings = peft.LoraConfig(
        r=4, lora_alpha=5, target_modules=["v_proj", "q_proj"], use_dora=use_dora, use_rslora=True
    )
    adapted = peft.get_peft_model(network, settings).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.uniform_(0.1, 0.6)
    adapted.save_pretrained(str(tmp_path / "saved"))
    lora = LoraConfig(**adapter_settings(tmp_path / "saved"))
    assert (lora.rank, lora.targets, lora.use_dora) == (4, "q_proj,v_proj", use_dora)
    model = LanguageModel(replace(LLM_CONFIG, lora=lora), 50).eval()
    state = {f"llm.{name}": weight for name, weight in model.state_dict().items()}
    plain = {plain_name(name): name for name in model.state_dict() if plain_name(name)}
    load_into(model, ((plain[f"network.{name}"], weight) for name, weight in base.items()))
    stored = open_adapter(tmp_path / "saved", state)
    load_into(model, ((name.removeprefix("llm."), one) for name, one in stored.tensors()))
    torch.testing.assert_close(logits(model), network_logits(adapted), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"peft_type": "LOHA"}, "has peft_type=LOHA, which is not supported. Only 'LORA' is"),
        ({"rank_pattern": {"q_proj": 8}}, "has rank_pattern="),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save="),
        ({"target_modules": ["lm_head"]}, r"target_modules=\['lm_head'\]"),
        ({"target_modules": ".*q_proj"}, r"target_modules=.*q_proj"),
        ({"target_modules": [["q_proj"]]}, r"target_modules=\[\['q_proj'\]\]"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights=pissa"),
        ({"alora_invocation_tokens": [7]}, r"has alora_invocation_tokens=\[7\]"),
        ({"layer_replication": [[0, 2]]}, r"has layer_replication="),
        ({"r": "many"}, "is corrupt"),
        ({"r": 0}, "is corrupt: .*r=0"),
    ),
)
def test_adapter_of_another_kind_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    export_adapter(write_run(tmp_path / "run", adapted_model(), LORA), tmp_path / "out")
    file = tmp_path / "out" / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(WeightsError, match=message):
        adapter_settings(tmp_path / "out")


def test_adapters_of_another_model_or_of_none_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_adapter(write_run(tmp_path / "run", adapted_model(), LORA), out)
    wider = LanguageModel(replace(LLM_CONFIG, hidden_size=64, lora=LORA), 50)
    state = {f"llm.{name}": weight for name, weight in wider.state_dict().items()}
    with pytest.raises(WeightsError, match=r"model\.llm\.lora\.path=.*out does not fit the model"):
        open_adapter(out, state)
    plain = write_run(tmp_path / "plain", LanguageModel(LLM_CONFIG, 50), LoraConfig())
    with pytest.raises(WeightsError, match=r"has no adapters: its model\.llm\.lora\.rank is 0"):
        export_adapter(plain, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(WeightsError, match=r"has no adapter_config\.json"):
        adapter_settings(tmp_path / "plain")
    lora = LoraConfig(path=str(out))
    config = Config(model=replace(Config().model, llm=replace(LLM_CONFIG, lora=lora)))
    with pytest.raises(ConfigError, match=r"is an adapter of a language model\. Name this in"):
        config_for_new_run(config)
