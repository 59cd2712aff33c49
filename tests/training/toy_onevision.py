"""A LLaVA-OneVision of toy sizes in the real layout, and the shards of the three stages, all of a
few small files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.pack import pack
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from tests.helpers.siglip_tower import lit_hour_siglip
from tests.media.helpers import write_video

TOWER, SIZE_PIXELS = "lit-hour-siglip-toy", 56
DIM, VISION_DIM = 32, 24
LANGUAGE: dict[str, Any] = {
    "vocab_size": 320,  # more than the tokenizer has, as published
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
}
ROPE_THETA = 1_000_000.0
ONEVISION = {  # what the published config.json says besides
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": ROPE_THETA,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "one_token",
    "image_aspect_ratio": "anyres_max_9",
}


@register_model
def lit_hour_siglip_toy(pretrained: bool = False, **sizes: Any) -> VisionTransformer:
    """Pictures of 4 x 4 patches."""
    return lit_hour_siglip(pretrained, img_size=SIZE_PIXELS, **sizes)


def know_tower(folder: Path) -> None:
    """Make the toy tower known to open_clip."""
    vision = {
        "image_size": SIZE_PIXELS,
        "timm_model_name": "lit_hour_siglip_toy",
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1}
    file = folder / f"{TOWER}.json"
    file.write_text(
        json.dumps({"embed_dim": VISION_DIM, "vision_cfg": vision, "text_cfg": text}),
        encoding="utf-8",
    )
    open_clip.add_model_config(file)


def write_onevision(folder: Path) -> None:
    """config.json, model.safetensors and tokenizer, with random weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    language = Qwen2ForCausalLM(Qwen2Config(**LANGUAGE))
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=VISION_DIM,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=40,
            image_size=SIZE_PIXELS,
            patch_size=14,
        )
    )
    projector = nn.Sequential(nn.Linear(VISION_DIM, DIM), nn.GELU(), nn.Linear(DIM, DIM))
    weights: dict[str, Tensor] = {"model.image_newline": torch.randn(DIM)}
    weights |= {
        name: weight for name, weight in language.state_dict().items() if name != "lm_head.weight"
    }
    weights |= {
        f"model.mm_projector.{name}": weight for name, weight in projector.state_dict().items()
    }
    for name, weight in tower.state_dict().items():
        name = name.removeprefix("vision_model.")
        if not name.startswith(("head.", "encoder.layers.3.")):  # the published code drops both
            weights[f"model.vision_tower.vision_tower.vision_model.{name}"] = weight
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({**LANGUAGE, **ONEVISION}), encoding="utf-8")
    train_byte_level_tokenizer([], 300).save_pretrained(str(folder))


def write_sources(shards: Path, files: Path, video: VideoConfig) -> None:
    """The sources that the stages name: texts, pictures, sets of pictures, and two of videos."""
    files.mkdir()
    sizes = [(60, 40), (30, 200), (56, 56), (300, 90)]
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files / f"{number}.png")
    frames = [np.full((32, 32, 3), 20 * number, dtype=np.uint8) for number in range(10)]
    write_video(files / "clip.mp4", frames)
    asked = {"question": "What is it?", "answer": "noise"}
    records: dict[str, list[dict[str, Any]]] = {
        "llava_onevision_text": [
            {"question": f"How much is {n} and 1?", "answer": str(n + 1)} for n in range(4)
        ],
        "llava_onevision_single_image": [
            {"image": f"{number}.png", **asked} for number in range(4)
        ],
        "llava_onevision_multi_image": [
            {
                "images": ["0.png", "1.png"],
                "question": "Is <image> as wide as <image>?",
                "answer": "no",
            },
            {"images": ["2.png", "3.png", "0.png"], **asked},
        ],
        "llava_video_178k": [{"video": "clip.mp4", **asked}],
        "video_marathon": [
            {"video": "clip.mp4", "question": "How bright is it at the end?", "answer": "bright"}
        ],
    }
    for name, questions in records.items():
        file = files / f"{name}.json"
        file.write_text(json.dumps(questions), encoding="utf-8")
        pack(files, file, shards / name, video, PackConfig(num_workers=1))
