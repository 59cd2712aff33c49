"""A vision tower with the sizes of the recorded tiny SigLIP, built by timm through open_clip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, _create_vision_transformer
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights.name_map import siglip_names_of, to_tower

SIGLIP = VisionConfig(name="lit-hour-siglip")
SIZES: dict[str, Any] = {  # by the names of transformers
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
PIXELS: dict[str, Any] = {"image_size": 384, "patch_size": 14}
HALVES = (0.5, 0.5, 0.5)

open_clip.add_model_config(Path(__file__).parents[1] / "model/towers/lit-hour-siglip.json")
# timm reads this name.
default_cfgs = generate_default_cfgs({"lit_hour_siglip": {"mean": HALVES, "std": HALVES}})


@register_model
def lit_hour_siglip(pretrained: bool = False, **sizes: Any) -> VisionTransformer:
    """Build timm's `vit_so400m_patch14_siglip_384` with smaller sizes."""
    sizes = {
        "img_size": 384,
        "patch_size": 14,
        "embed_dim": 24,
        "depth": 4,
        "num_heads": 3,
        "mlp_ratio": 40 / 24,
    } | sizes
    sizes |= {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer("lit_hour_siglip", pretrained=pretrained, **sizes)


def load_siglip(encoder: VisionEncoder, weights: Mapping[str, Tensor]) -> VisionEncoder:
    """Load Hugging Face weights, named without `vision_model.`, into the tower of an encoder."""
    state = {
        name: to_tower(name, [weights[part] for part in siglip_names_of(name)])
        for name in encoder.tower.state_dict()
    }
    encoder.tower.load_state_dict(state)
    return encoder.eval()
