"""Convolutional vision towers for timm, which open_clip builds by their names.

`lit_hour_conv` is a small one: convolutions learn shapes from a few minutes of frames, and read
four times as many frames per second of a CPU as a transformer with patches of eight pixels.
`lit_hour_efficientnet_lite0` is for pretrained weights, see `lit_hour/weights/efficientnet.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import (
    ByoBlockCfg,
    ByobNet,
    ByoModelCfg,
    EfficientNet,
    create_model,
    register_model,
)
from torch import Tensor, nn

STEM_CHANNELS = 16
STAGE_CHANNELS = (32, 64, 96)  # each stage halves height and width, as does the stem
HALVES = (0.5, 0.5, 0.5)  # mean and standard deviation of the color normalization

EFFICIENTNET_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage
EFFICIENTNET_HEAD_STAGE = len(EFFICIENTNET_STAGES)
EFFICIENTNET_MEAN, EFFICIENTNET_STD = 127 / 255, 128 / 255  # trained on (x - 127) / 128


@register_model
def lit_hour_conv(
    pretrained: bool = False, num_classes: int = 0, global_pool: str = "", **_unused: Any
) -> ByobNet:
    """Build a ResNet of three stages, 64 x 64 pixels to 4 x 4 tokens of width 96.

    Group norm does not depend on the batch, so a frame has the same tokens in training and answers.

    Args:
        pretrained: not supported; timm passes it, and where it would download weights.
        num_classes: width of a linear head; 0 for none.
        global_pool: timm's name of the pooling before it.
    """
    assert not pretrained
    blocks = tuple(ByoBlockCfg("basic", d=1, c=channels, s=2, gs=0) for channels in STAGE_CHANNELS)
    sizes = ByoModelCfg(
        blocks, stem_type="3x3", stem_pool="", stem_chs=STEM_CHANNELS, norm_layer="groupnorm1"
    )
    tower = ByobNet(sizes, num_classes=num_classes, global_pool=global_pool)
    tower.default_cfg = {"mean": HALVES, "std": HALVES}  # type: ignore[assignment]
    return tower


@register_model
def lit_hour_efficientnet_lite0(
    pretrained: bool = False, num_classes: int = 0, global_pool: str = "", **_unused: Any
) -> EfficientNet:
    """Build timm's EfficientNet-Lite0 with its head convolution as the last stage.

    So the last layer has the features that the classifier averages: tokens of width 1280, one for
    32 x 32 pixels.

    Args:
        pretrained: not supported; timm passes it, and where it would download weights.
        num_classes: width of a linear head; 0 for none.
        global_pool: timm's name of the pooling before it.
    """
    assert not pretrained
    tower = create_model("tf_efficientnet_lite0", num_classes=num_classes, global_pool=global_pool)
    assert isinstance(tower, EfficientNet)
    tower.blocks.append(nn.Sequential(tower.conv_head, tower.bn2))
    tower.conv_head, tower.bn2 = nn.Identity(), nn.Identity()
    num_stages = len(tower.blocks)
    tower.stage_ends.append(num_stages)
    head_info = {
        "num_chs": tower.num_features,
        "reduction": 32,
        "module": f"blocks.{num_stages - 1}",
    }
    tower.feature_info.append(head_info)
    colors = {"mean": (EFFICIENTNET_MEAN,) * 3, "std": (EFFICIENTNET_STD,) * 3}
    tower.default_cfg = {**tower.default_cfg, **colors}  # type: ignore[assignment, dict-item]
    tower.to(memory_format=torch.channels_last)
    tower.conv_stem.register_forward_pre_hook(_to_channels_last)
    return tower


def _to_channels_last(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Store the channels of a pixel together, which takes a CPU two thirds of the time."""
    return (inputs[0].contiguous(memory_format=torch.channels_last),)  # (frames, 3, height, width)
