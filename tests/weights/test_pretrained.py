import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, InputError, RunError, WeightsError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import save_tokenizer, train_byte_level_tokenizer
from lit_hour.weights.convert import convert
from lit_hour.weights.pretrained import (
    config_for_new_run,
    load_pretrained_weights,
    open_pretrained,
    pretrained_tokenizer,
)
from lit_hour.weights.safetensors_writer import write_weights
from tests.weights.factories import (
    DIM,
    SIGLIP_PREFIX,
    TOWER_OVERRIDES,
    read_folder,
    write_config,
    write_hour_llava,
)

OVERRIDES = (*TOWER_OVERRIDES, "model.memaug.num_layers=2")
QUERY_PROJ = "llm.network.model.layers.0.self_attn.q_proj"
MEMAUG_NORM = "memaug.blocks.0.self_attention_norm.weight"  # ones after random initialization


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the same random weights in five layouts.

    `hour_llava`, `run` (converted from it), `onevision`, `qwen2` and `siglip`.
    """
    parent = tmp_path_factory.mktemp("start")
    weights = write_hour_llava(parent / "hour_llava")
    convert(parent / "hour_llava", parent / "run", TOWER_OVERRIDES)
    llm = {
        name
        for name in weights
        if name.startswith(("model.layers.", "model.embed", "model.norm", "lm_head"))
    }
    parts = {
        "onevision": {name for name in weights if "vision_resampler" not in name},
        "qwen2": llm,
        "siglip": {name for name in weights if name.startswith(SIGLIP_PREFIX)},
    }
    for part, names in parts.items():
        (parent / part).mkdir()
        save_file({name: weights[name] for name in names}, parent / part / "model.safetensors")
        shutil.copy(parent / "hour_llava/tokenizer.json", parent / part)
    onevision = {
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_resampler_type": None,
    }
    write_config(parent / "onevision", **onevision)
    write_config(parent / "qwen2", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    return parent


def init_model(*overrides: str) -> tuple[Config, HourLLaVA]:
    """Return a new model, initialized from the weights that the settings name."""
    config = config_for_new_run(load_config(None, [*OVERRIDES, *overrides]))
    open_pretrained(config)
    torch.manual_seed(1)
    model = HourLLaVA.from_config(config, 300)
    load_pretrained_weights(model, config)
    return config, model


def assert_loaded_parts(model: HourLLaVA, weights: dict[str, Tensor], *parts: str) -> None:
    """Check that exactly these parts have the published weights, by one weight of each part."""
    pairs = {
        "llm": (f"{QUERY_PROJ}.weight", "model.layers.0.self_attn.q_proj.weight"),
        "projector": ("projector.layers.0.weight", "model.mm_projector.0.weight"),
        "frame_newline": ("frame_newline", "model.image_newline"),
        "memaug": (MEMAUG_NORM, "model.vision_resampler.layers.0.norm1.weight"),
        "vision": (
            "vision.tower.trunk.patch_embed.proj.bias",
            f"{SIGLIP_PREFIX}embeddings.patch_embedding.bias",
        ),
    }
    state = model.state_dict()
    found = {
        part
        for part, (ours, published) in pairs.items()
        if torch.equal(state[ours], weights[published].float())
    }
    assert found == set(parts)


@pytest.mark.parametrize("source", ("run", "hour_llava"))
def test_init_from_hour_llava_loads_all_parts(folders: Path, source: str) -> None:
    config, model = init_model(f"training.init_from={folders}/{source}")
    assert (config.model.llm.vocab_size, config.model.llm.hidden_size) == (320, DIM)
    assert_loaded_parts(
        model,
        read_folder(folders / "hour_llava"),
        "llm",
        "projector",
        "frame_newline",
        "memaug",
        "vision",
    )
    tokenizer = {"run": folders / "run/tokenizer", "hour_llava": folders / "hour_llava"}[source]
    assert pretrained_tokenizer(config) == tokenizer and (tokenizer / "tokenizer.json").is_file()


def test_init_from_onevision_loads_all_but_memaug(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lit_hour"):
        _, model = init_model(f"training.init_from={folders}/onevision")
    assert_loaded_parts(
        model,
        read_folder(folders / "hour_llava"),
        "llm",
        "projector",
        "frame_newline",
        "vision",
    )
    assert torch.equal(model.get_parameter(MEMAUG_NORM), torch.ones(DIM))
    assert "Randomly initialized: memaug" in caplog.messages
    assert any("post_layernorm.weight" in message for message in caplog.messages)


def test_llm_and_tower_load_separately(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    llm = f"model.llm.path={folders}/qwen2"
    tower = f"model.vision.weights={folders}/siglip"
    weights = read_folder(folders / "hour_llava")
    config, model = init_model(llm)
    assert_loaded_parts(model, weights, "llm")
    # a language model is used with its own tokenizer
    assert pretrained_tokenizer(config) == folders / "qwen2"
    named = load_config(None, [llm, f"text.tokenizer={folders}/run/tokenizer"])
    assert pretrained_tokenizer(named) == folders / "run/tokenizer"
    assert pretrained_tokenizer(load_config()) is None
    with caplog.at_level(logging.INFO, "lit_hour"):
        assert_loaded_parts(init_model(llm, tower)[1], weights, "llm", "vision")
    assert "Randomly initialized: frame_newline, memaug, projector" in caplog.messages
    sizes = [
        f"model.llm.{name}" for name in ("hidden_size=32", "num_heads=4", "intermediate_size=48")
    ]
    assert_loaded_parts(init_model(tower, *sizes)[1], weights, "vision")
    assert_loaded_parts(init_model(*sizes)[1], weights)


@pytest.mark.parametrize("prefix", ("", "vision_model.", "model.vision_model."))
def test_siglip_loads_with_any_key_prefix(folders: Path, tmp_path: Path, prefix: str) -> None:
    """Transformers 5 saves SigLIP without the prefix `vision_model.` of transformers 4."""
    weights = read_folder(folders / "siglip")
    save_file(
        {prefix + name.removeprefix(SIGLIP_PREFIX): weight for name, weight in weights.items()},
        tmp_path / "model.safetensors",
    )
    sizes = [
        f"model.llm.{name}" for name in ("hidden_size=32", "num_heads=4", "intermediate_size=48")
    ]
    assert_loaded_parts(
        init_model(f"model.vision.weights={tmp_path}", *sizes)[1],
        read_folder(folders / "hour_llava"),
        "vision",
    )


def test_lora_is_added_on_init_and_merged_in_next_run(folders: Path, tmp_path: Path) -> None:
    source = f"training.init_from={folders}/run"
    _, model = init_model(source, "model.llm.lora.rank=2", "model.llm.lora.alpha=8")
    base = model.get_parameter(f"{QUERY_PROJ}.base_layer.weight")
    expected = read_folder(folders / "hour_llava")["model.layers.0.self_attn.q_proj.weight"].float()
    assert torch.equal(base, expected)
    up, down = (model.get_parameter(f"{QUERY_PROJ}.lora_{part}.default.weight") for part in "BA")
    assert not up.any() and down.any()  # new adapters are zero
    torch.nn.init.normal_(up)
    run = tmp_path / "adapted"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(
        {"state_dict": {f"model.{name}": w for name, w in model.state_dict().items()}},
        run / "checkpoints/last.ckpt",
    )
    shutil.copy(folders / "run/config.yaml", run / "checkpoints/last.yaml")
    shutil.copytree(folders / "run/tokenizer", run / "tokenizer")
    text = (run / "checkpoints/last.yaml").read_text()
    (run / "checkpoints/last.yaml").write_text(
        text.replace("rank: 0", "rank: 2").replace("alpha: 32.0", "alpha: 8.0")
    )
    later_config, later = init_model(f"training.init_from={run}")
    assert later_config.model.llm.lora.rank == 0
    torch.testing.assert_close(
        later.get_parameter(f"{QUERY_PROJ}.weight"), expected + 8 / 2 * up @ down
    )


def test_init_from_run_without_memaug_loads_other_parts(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(folders / "run", tmp_path / "without_memaug")
    _, model = init_model(f"training.init_from={folders}/run")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    weights = {
        f"model.{name}": weight
        for name, weight in model.state_dict().items()
        if not name.startswith("memaug.")
    }
    torch.save({"state_dict": weights}, run / "checkpoints/last.ckpt")
    text = (run / "config.yaml").read_text()
    assert "num_layers: 2" in text.partition("memaug:")[2]
    (run / "checkpoints/last.yaml").write_text(
        text.replace("memaug:\n    num_layers: 2", "memaug:\n    num_layers: 0")
    )
    with caplog.at_level(logging.INFO, "lit_hour"):
        _, later = init_model(f"training.init_from={run}")
    assert_loaded_parts(
        later,
        read_folder(folders / "hour_llava"),
        "llm",
        "projector",
        "frame_newline",
        "vision",
    )
    assert (
        later.get_parameter(MEMAUG_NORM).shape and "Randomly initialized: memaug" in caplog.messages
    )


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["training.init_from=HERE/none"],
            RunError,
            r"training\.init_from=.*none does not exist\. Give the folder of a run, "
            r".*Hour-LLaVA; or start from a language model: .* text\.tokenizer=FOLDER\.$",
        ),
        (
            ["training.init_from=HERE/qwen2"],
            WeightsError,
            r"is a plain language model\. Set model\.llm\.path=",
        ),
        (
            ["model.llm.path=HERE/onevision"],
            WeightsError,
            r"is LLaVA-OneVision\. Set training\.init_from=",
        ),
        (["model.llm.path=HERE/siglip"], WeightsError, r"siglip.* has no config\.json"),
        (
            ["training.init_from=HERE/run", "model.llm.path=HERE/qwen2"],
            ConfigError,
            "includes a language model",
        ),
        (
            ["training.init_from=HERE/run", "text.tokenizer=HERE/qwen2"],
            ConfigError,
            r"includes a tokenizer\. Remove",
        ),
        (
            ["training.init_from=HERE/run", "model.vision.weights=HERE/siglip"],
            ConfigError,
            "includes a vision tower",
        ),
        (
            ["training.init_from=HERE/onevision", "model.vision.weights=HERE/siglip"],
            WeightsError,
            "has its own vision tower",
        ),
        (
            ["model.vision.weights=HERE/qwen2"],
            WeightsError,
            r"model\.vision\.weights=.*qwen2 must contain one SigLIP",
        ),
        (["model.vision.weights=HERE/none"], ConfigError, r"model\.vision\.weights='.*none'"),
        (
            ["training.init_from=HERE/run", "model.memaug.num_layers=1"],
            WeightsError,
            r"converted does not fit the model\n  unexpected: "
            r"memaug\.blocks\.1\.cross_attention\.key\.bias",
        ),
        (
            ["training.init_from=HERE/hour_llava", "model.memaug.num_layers=3"],
            WeightsError,
            r"hour_llava does not fit the model\n  missing: "
            r"model\.vision_resampler\.layers\.2\.self_attn\.Wqkv\.weight",
        ),
    ],
)
def test_unusable_pretrained_source_is_refused(
    folders: Path, overrides: list[str], error: type[InputError], message: str
) -> None:
    sizes = [
        "model.llm.hidden_size=32",
        "model.llm.num_heads=4",
        "model.llm.intermediate_size=48",
    ]
    with pytest.raises(error, match=message):
        init_model(*sizes, *(override.replace("HERE", str(folders)) for override in overrides))


def test_tokenizer_larger_than_embedding_is_refused(folders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(folders / "hour_llava", tmp_path / "misfit")
    save_tokenizer(train_byte_level_tokenizer(map(str, range(10_000)), 600), source)
    with pytest.raises(ConfigError, match=r"vocab_size=320, but the tokenizer has \d+ tokens"):
        init_model(f"training.init_from={source}")


def test_integer_weights_are_refused(folders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(folders / "qwen2", tmp_path / "quantized")
    weights = read_folder(source)
    save_file(
        {name: weight.to(torch.int8) for name, weight in weights.items()},
        source / "model.safetensors",
    )
    with pytest.raises(
        WeightsError, match=r"is stored as int8\. Give weights that are not quantized"
    ):
        init_model(f"model.llm.path={source}")


def test_index_may_be_out_of_date_about_weights_that_are_not_needed(
    folders: Path, tmp_path: Path
) -> None:
    llm = Path(shutil.copytree(folders / "qwen2", tmp_path / "qwen2"))
    write_config(
        llm, model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True
    )
    weights = read_folder(llm)
    del weights["lm_head.weight"]
    (llm / "model.safetensors").unlink()
    write_weights(llm, weights.items(), 20_000)
    index_file = llm / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    shard = index["weight_map"]["lm_head.weight"] = min(index["weight_map"].values())
    index_file.write_text(json.dumps(index))
    save_file(
        load_file(llm / shard) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        llm / shard,
    )
    overrides = (f"model.llm.path={llm}", f"text.tokenizer={llm}")
    expected = {**read_folder(folders / "hour_llava"), **weights}
    assert_loaded_parts(init_model(*overrides)[1], expected, "llm")
    index["weight_map"]["model.layers.1.self_attn.q_proj.weight"] = shard
    index_file.write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"contains model\.layers\.1\.self_attn\.q_proj"):
        init_model(*overrides)
    write_config(llm, model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    del index["weight_map"]["model.layers.1.self_attn.q_proj.weight"]
    index_file.write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=rf"{shard} lacks lm_head\.weight, which .*index\.json"):
        init_model(*overrides)


def test_other_output_layer_of_a_tied_model_is_refused(folders: Path, tmp_path: Path) -> None:
    llm = Path(shutil.copytree(folders / "qwen2", tmp_path / "qwen2"))
    write_config(
        llm, model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True
    )
    overrides = (f"model.llm.path={llm}", f"text.tokenizer={llm}")
    with pytest.raises(WeightsError, match=r"qwen2: lm_head\.weight differs .*tie_word_embeddings"):
        init_model(*overrides)
    weights = read_folder(llm)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, llm / "model.safetensors")
    assert_loaded_parts(init_model(*overrides)[1], read_folder(folders / "hour_llava"), "llm")


def test_hugging_face_repository_is_answered_with_the_download_command() -> None:
    name = "lmms-lab/llava-onevision-qwen2-7b-si"
    command = f"hf download {name} --local-dir FOLDER"
    settings = ("training.init_from", "model.llm.path", "text.tokenizer", "model.vision.weights")
    for setting in settings:
        config = load_config(None, [*OVERRIDES, f"{setting}={name}"])
        with pytest.raises(InputError, match=rf"^{setting}='?{name}'? .*\. .*: {command}$"):
            config = config_for_new_run(config)
            pretrained_tokenizer(config)
            open_pretrained(config)
    for start in (
        lambda: RunDir(Path(name)).checkpoint(),
        lambda: convert(Path(name), Path("anywhere")),
    ):
        with pytest.raises(InputError, match=rf"{name} .*\. .*: {command}$|{name}\. .*{command}$"):
            start()
    with pytest.raises(RunError, match=r"weights/none does not exist\. .*tokenizer=FOLDER\.$"):
        config_for_new_run(load_config(None, ["training.init_from=weights/none"]))


def test_folder_that_is_neither_run_nor_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is neither a run nor a published model\. Give the folder"):
        config_for_new_run(load_config(None, [f"training.init_from={tmp_path}"]))
