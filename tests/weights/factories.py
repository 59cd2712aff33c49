"""Small published checkpoints with random weights, in the Hugging Face layout.

Entry point: `write_hour_llava`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_hour.config.load import config_from_dict
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.weights.hf_config import read_published_config, settings_from_hf
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import hf_meta_tensors
from lit_hour.weights.safetensors_writer import write_weights
from tests.helpers.siglip_tower import SIGLIP

TOWER_OVERRIDES = (f"model.vision.name={SIGLIP.name}", "video.image_size=384")
SIGLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
NUM_TOKENS, NUM_ROWS, DIM, VISION_DIM = 300, 320, 32, 24
HOUR_LLAVA: dict[str, Any] = {
    "architectures": ["HourLlavaQwenForCausalLM"],
    "model_type": "hour_llava_qwen",
    "hidden_act": "silu",
    "vocab_size": NUM_ROWS,
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 4096,
    "memaug_depth": 2,
    "spatial_sampling_type": "random",
    "mm_resampler_type": "memaug",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "grid",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [
        [384 * width, 384 * height] for width in range(1, 7) for height in range(1, 7)
    ],
}


def hour_llava_weights(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Return random weights by published names for the config.json of a folder.

    The last norm of the tower is ones and zeros.
    """
    config = config_from_dict(
        settings_from_hf(read_published_config(folder), names_tower=True), "made", TOWER_OVERRIDES
    )
    meta_tensors = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    weights = {
        name: torch.randn(meta_tensor.shape).to(dtype) for name, meta_tensor in meta_tensors.items()
    }
    weights[f"{SIGLIP_PREFIX}post_layernorm.weight"] = torch.ones(VISION_DIM, dtype=dtype)
    weights[f"{SIGLIP_PREFIX}post_layernorm.bias"] = torch.zeros(VISION_DIM, dtype=dtype)
    return weights


def write_hour_llava(folder: Path, shard_bytes: int = 40_000, **changes: Any) -> dict[str, Tensor]:
    """Write a published Hour-LLaVA in shards, with its tokenizer, and return its weights by name.

    `changes` are applied to its config.json.
    """
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    write_config(folder, **changes)
    weights = hour_llava_weights(folder)
    write_weights(folder, weights.items(), shard_bytes)
    train_byte_level_tokenizer([], NUM_TOKENS).save_pretrained(str(folder))
    return weights


def write_config(folder: Path, **changes: Any) -> None:
    """Write the config.json of a published Hour-LLaVA with these changes."""
    (folder / "config.json").write_text(json.dumps(HOUR_LLAVA | changes), encoding="utf-8")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder, read by the safetensors library."""
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def equal_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Return whether names, dtypes and bits are equal."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Map each name to the shape of its tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
