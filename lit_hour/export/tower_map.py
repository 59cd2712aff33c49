"""Name and sizes of a vision tower in an exported model, and the names of its weights there.

Entry point: `map_tower`. The towers are in `transformers_code/vision_hour_llava.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError
from lit_hour.model.vision_encoder import VisionEncoder

# patterns of our names to names in the exported tower; "" for weights that nothing reads
TIMM_TRANSFORMER = {
    r"trunk\.cls_token": "class_embedding",
    r"trunk\.pos_embed": "position_embedding",
    r"trunk\.patch_embed\.proj\.(\w+)": r"patch_embedding.\1",
    r"trunk\.norm_pre\.(\w+)": r"pre_norm.\1",
    r"trunk\.blocks\.(\d+)\.(norm[12]\.\w+)": r"layers.\1.\2",
    r"trunk\.blocks\.(\d+)\.attn\.qkv\.(\w+)": r"layers.\1.qkv.\2",
    r"trunk\.blocks\.(\d+)\.attn\.proj\.(\w+)": r"layers.\1.output.\2",
    r"trunk\.blocks\.(\d+)\.mlp\.fc1\.(\w+)": r"layers.\1.expand.\2",
    r"trunk\.blocks\.(\d+)\.mlp\.fc2\.(\w+)": r"layers.\1.contract.\2",
}
OPEN_CLIP_TRANSFORMER = {
    r"class_embedding": "class_embedding",
    r"positional_embedding": "position_embedding",
    r"conv1\.weight": "patch_embedding.weight",
    r"ln_pre\.(\w+)": r"pre_norm.\1",
    r"transformer\.resblocks\.(\d+)\.ln_([12]\.\w+)": r"layers.\1.norm\2",
    r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)": r"layers.\1.qkv.\2",
    r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)": r"layers.\1.output.\2",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)": r"layers.\1.expand.\2",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)": r"layers.\1.contract.\2",
    r"(ln_post\.\w+|proj)": "",  # behind the last layer
}
RESNET = {
    r"trunk\.stem\.conv\.(\w+)": r"stem.\1",
    r"trunk\.stem\.bn\.(\w+)": r"stem_norm.\1",
    r"trunk\.stages\.(\d+)\.0\.conv([12])_kxk\.conv\.(\w+)": r"stages.\1.conv\2.\3",
    r"trunk\.stages\.(\d+)\.0\.conv([12])_kxk\.bn\.(\w+)": r"stages.\1.norm\2.\3",
    r"trunk\.stages\.(\d+)\.0\.shortcut\.conv\.(\w+)": r"stages.\1.shortcut.\2",
    r"trunk\.stages\.(\d+)\.0\.shortcut\.bn\.(\w+)": r"stages.\1.shortcut_norm.\2",
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # by the names of transformers
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda hidden: hidden * torch.sigmoid(1.702 * hidden),  # of OpenAI's CLIP
}


@dataclass(frozen=True)
class TowerMap:
    """A vision tower in an exported model.

    Attributes:
        tower: "transformer" or "resnet".
        sizes: what its class takes.
        image_mean: of the color normalization, from 0 to 1.
        image_std: like `image_mean`.
        names: our state-dict names, without `vision.tower.`, to those in the exported tower.
        frame_side: rows and columns of tokens of a video frame.
        image_side: rows and columns of tokens of an image.
    """

    tower: str
    sizes: Mapping[str, Any]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    names: Mapping[str, str]
    frame_side: int
    image_side: int


def map_tower(config: VisionConfig) -> TowerMap:
    """Return how the vision tower of the settings is exported.

    Raises:
        ConfigError: it is neither a plain vision transformer nor like `lit-hour-conv`.
    """
    with torch.device("meta"):
        encoder = VisionEncoder(config)
    state = encoder.tower.state_dict()
    for patterns, tower, read_sizes in (
        (TIMM_TRANSFORMER, "transformer", _transformer_sizes),
        (OPEN_CLIP_TRANSFORMER, "transformer", _transformer_sizes),
        (RESNET, "resnet", _resnet_sizes),
    ):
        names = {name: _rename(name, patterns) for name in state}
        if None not in names.values():
            used = {name: new for name, new in names.items() if new}
            sides = (encoder.tokens_per_frame, encoder.tokens_per_image)
            frame_side, image_side = (round(num_tokens**0.5) for num_tokens in sides)
            sizes = read_sizes(encoder, {new: state[name] for name, new in used.items()})
            return TowerMap(tower, sizes, encoder.mean, encoder.std, used, frame_side, image_side)
    raise _unsupported(config, "its layers are those of neither")


def _rename(name: str, patterns: Mapping[str, str]) -> str | None:
    for pattern, replacement in patterns.items():
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return None


def _transformer_sizes(encoder: VisionEncoder, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes of a vision transformer from its weights, by exported names.

    Raises:
        ConfigError: positions or activation are not those of a plain one.
    """
    block: Any = encoder.blocks[0]
    patches = state["patch_embedding.weight"]  # (dim, 3, patch, patch)
    has_class = "class_embedding" in state
    sizes = {
        "image_size": encoder.image_size,
        "patch_size": patches.shape[-1],
        "dim": len(patches),
        "num_layers": len(encoder.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_dim": len(state["layers.0.expand.weight"]),
        "layer_norm_eps": next(one.eps for one in block.modules() if isinstance(one, nn.LayerNorm)),
        "activation": _activation(encoder.config, block.mlp),
        "patch_bias": "patch_embedding.bias" in state,
        "class_token": has_class,
        "pre_norm": "pre_norm.weight" in state,
    }
    num_positions = state["position_embedding"].shape[-2]
    if num_positions != encoder.tokens_per_image + has_class:
        reason = f"it has {num_positions} positions for {encoder.tokens_per_image} patches, unlike"
        raise _unsupported(encoder.config, reason)
    return sizes


def _activation(config: VisionConfig, mlp: nn.Module) -> str:
    points = torch.linspace(-4, 4, 101)  # (points,)
    layers = (nn.Linear, nn.Dropout, nn.Identity)
    (activation,) = (layer for layer in mlp.children() if not isinstance(layer, layers))
    for name, function in ACTIVATIONS.items():
        if torch.allclose(activation(points), function(points), atol=1e-6):
            return name
    raise _unsupported(config, f"its activation is {activation}, unlike that of")


def _resnet_sizes(encoder: VisionEncoder, state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = range(len(encoder.blocks))
    return {
        "stem_channels": len(state["stem.weight"]),
        "stage_channels": [len(state[f"stages.{stage}.conv1.weight"]) for stage in stages],
    }


def _unsupported(config: VisionConfig, reason: str) -> ConfigError:
    return ConfigError(
        f"model.vision.name={config.name} cannot be exported to transformers: {reason} a plain"
        " vision transformer (SigLIP, CLIP) or lit-hour-conv. Train a run with one of these."
    )
