import json
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.load import config_from_dict, load_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.weights.hf_config import (
    differences_from_published,
    hf_config_values,
    llm_settings,
    read_published_config,
    settings_from_hf,
)
from tests.weights.factories import DIM, HOUR_LLAVA, TOWER_OVERRIDES, write_config

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
PLAIN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
ONEVISION = {
    "model_type": "llava",
    "architectures": ["LlavaQwenForCausalLM"],
    "mm_resampler_type": None,
}


def settings(folder: Path, *overrides: str, **changes: Any) -> Config:
    write_config(folder, **changes)
    names_tower = any(override.startswith("model.vision.name=") for override in overrides)
    return config_from_dict(
        settings_from_hf(read_published_config(folder), names_tower), "config.json", overrides
    )


def test_published_config_becomes_settings(golden: Path, tmp_path: Path) -> None:
    recorded = json.loads((golden / "full_untied_state.json").read_text(encoding="utf-8"))[
        "config.json"
    ]
    config = settings(tmp_path, **recorded | {"spatial_sampling_type": "random"})
    llm, memaug = config.model.llm, config.model.memaug
    assert (llm.vocab_size, llm.hidden_size, llm.num_layers) == (1000, 64, 2)
    assert (llm.num_heads, llm.num_key_value_heads, llm.intermediate_size) == (
        4,
        2,
        128,
    )
    assert (llm.rope_theta, llm.rms_norm_eps, llm.tie_word_embeddings) == (
        1e6,
        1e-6,
        False,
    )
    assert (memaug.num_layers, memaug.spatial_forgetting, memaug.eval_spatial_forgetting) == (
        2,
        "random",
        "random",
    )
    assert (config.image.max_grid, config.image.max_tiles, config.text.max_tokens) == (6, 9, 32768)
    assert (config.model.vision.name, config.video.image_size) == ("ViT-SO400M-14-SigLIP-384", 384)
    assert (config.text.time_sentence, config.video.sampling) == ("published", "published")
    assert (config.video.min_frames, config.video.max_frames) == (128, 1_000_000)
    assert differences_from_published(config) == []


def test_overrides_win_and_may_name_another_tower(tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        *(*TOWER_OVERRIDES, "text.max_tokens=99", "video.sampling=seconds"),
        mm_vision_tower="someone/siglip-small",
    )
    assert (config.model.vision.name, config.text.max_tokens) == ("lit-hour-siglip", 99)
    assert config.video.sampling == "seconds"


def test_newer_and_older_keys_are_read(tmp_path: Path) -> None:
    newer = settings(
        tmp_path, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    assert newer.model.llm.rope_theta == 5e5
    assert settings(tmp_path, image_grid_pinpoints="(1x1),...,(4x4)").image.max_grid == 4
    assert (
        settings(tmp_path, mm_vision_tower="/models/siglip-so400m-patch14-384").video.image_size
        == 384
    )


@pytest.mark.parametrize("kind", (PLAIN, ONEVISION, ONEVISION | {"model_type": "llava_qwen"}))
def test_llm_settings_of_every_architecture(tmp_path: Path, kind: dict[str, Any]) -> None:
    write_config(tmp_path, **kind, tie_word_embeddings=True)
    sizes = llm_settings(read_published_config(tmp_path))
    assert (sizes["vocab_size"], sizes["hidden_size"], sizes["tie_word_embeddings"]) == (
        320,
        32,
        True,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            r"model_type='mistral' .* is unsupported",
        ),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3"}}, r"rope_scaling=.* is unsupported"),
        ({**LLAMA, "attention_bias": True}, r"attention_bias=True is unsupported"),
        ({**LLAMA, "mlp_bias": True}, r"mlp_bias=True is unsupported"),
        (
            {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]},
            r"\['LlavaLlamaForCausalLM'\] is unsupported",
        ),
        ({"architectures": None}, r"architectures=None is unsupported"),
        (
            {"hidden_act": "gelu"},
            r"config\.json: hidden_act='gelu' is unsupported\. Supported: 'silu'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            r"rope_scaling=\{'type': 'linear', 'factor': 2\} is unsupported\. Supported: none",
        ),
        (
            {"use_sliding_window": True},
            r"use_sliding_window=True is unsupported\. Supported: False",
        ),
        ({"quantization_config": {"bits": 4}}, r"quantization_config=\{'bits': 4\}"),
        (
            {"mm_projector_type": "linear"},
            r"mm_projector_type='linear' is unsupported\. Supported: 'mlp2x_gelu'",
        ),
        (
            {"mm_patch_merge_type": "flat"},
            r"mm_patch_merge_type='flat' is unsupported\. Supported: 'spatial_unpad'",
        ),
        (
            {"mm_newline_position": "one_token"},
            r"mm_newline_position='one_token' is unsupported\. Supported: 'grid'",
        ),
        (
            {"mm_resampler_type": None},
            r"mm_resampler_type=None is unsupported\. Supported: 'memaug'",
        ),
        (
            {"spatial_sampling_type": "best"},
            r"spatial_sampling_type='best' is unsupported\. Supported: 'uniform' or 'random'",
        ),
        (
            {"image_aspect_ratio": "pad"},
            r"image_aspect_ratio='pad' is unsupported\. Supported: 'anyres_max_N'",
        ),
        (
            {"image_grid_pinpoints": [[384, 768]]},
            r"image_grid_pinpoints=\[\[384, 768\]\] is unsupported\. Supported: every grid",
        ),
        ({"image_grid_pinpoints": ["x", 3]}, r"image_grid_pinpoints=\['x', 3\]"),
        (
            {"mm_vision_tower": "openai/clip"},
            r"mm_vision_tower='openai/clip' .* give model\.vision\.name=",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            r"rope_parameters=.* is unsupported\. Supported: rope_type='default'",
        ),
        ({"hidden_size": "wide"}, r"config\.json: hidden_size='wide' must be a number"),
        ({"vocab_size": 3.5}, r"config\.json: vocab_size=3\.5 must be an integer"),
        ({"memaug_depth": None}, r"config\.json: memaug_depth=None must be a number"),
    ],
)
def test_unsupported_config_value_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        settings(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is corrupt"), ("[]", "must be a mapping"), (None, r"has no config\.json")],
)
def test_unreadable_config_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=message):
        read_published_config(tmp_path)


def test_settings_round_trip_through_config_json(tmp_path: Path) -> None:
    config = settings(tmp_path, image_aspect_ratio="anyres_max_4")
    (tmp_path / "config.json").write_text(json.dumps(hf_config_values(config, 320, 24, "bfloat16")))
    published = read_published_config(tmp_path)
    assert config_from_dict(settings_from_hf(published, names_tower=False), "again") == config
    assert {key: published.values[key] for key in HOUR_LLAVA} == HOUR_LLAVA | {
        "image_aspect_ratio": "anyres_max_4"
    }


def test_differences_from_published_are_listed() -> None:
    config = load_config(None, ["model.vision.grid=4", "model.memaug.temporal_forgetting=keyframe"])
    assert differences_from_published(config) == [
        "text.time_sentence=own (published: published)",
        "video.sampling=seconds (published: published)",
        "model.vision.grid=4 (published: 8)",
        "model.memaug.temporal_forgetting=keyframe (published: uniform)",
        "model.memaug.eval_spatial_forgetting=uniform (published: random)",
    ]
    with pytest.raises(
        ConfigError,
        match=r"model\.memaug\.spatial_forgetting=none is unsupported by the published code\."
        r" Set uniform or random",
    ):
        hf_config_values(
            load_config(None, ["model.memaug.spatial_forgetting=none"]), 320, 24, "float32"
        )


def test_run_with_another_backbone_cannot_be_converted() -> None:
    config = load_config(None, ["model.llm.model_type=llama"])
    with pytest.raises(
        ConfigError, match=r"model\.llm\.model_type=llama is unsupported by the published code\."
    ):
        hf_config_values(config, 320, 24, "float32")


def test_folder_of_a_llama_is_a_plain_language_model(tmp_path: Path) -> None:
    write_config(tmp_path, **LLAMA, head_dim=DIM // 4)
    published = read_published_config(tmp_path)
    assert published.kind == "a plain language model"
    assert llm_settings(published)["model_type"] == "llama"
    write_config(tmp_path, **LLAMA, head_dim=DIM)
    with pytest.raises(WeightsError, match=r"head_dim=32 is unsupported"):
        llm_settings(read_published_config(tmp_path))
