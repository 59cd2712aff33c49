"""EfficientNet-Lite0 from its package, with the names of the tower `efficientnet-lite0`.

Entry point: `open_efficientnet`. The file has the names of EfficientNet-PyTorch; after
`vision.tower.trunk.`, where S.I counts stages and blocks in them:

    _conv_stem, _bn0                       conv_stem, bn1
    _blocks.N._expand_conv, _bn0           blocks.S.I.conv_pw, bn1        (not in the first stage)
    _blocks.N._depthwise_conv, _bn1        blocks.S.I.conv_dw, bn2        (bn1 in the first stage)
    _blocks.N._project_conv, _bn2          blocks.S.I.conv_pwl, bn3       (conv_pw, bn2 there)
    _conv_head, _bn1                       blocks.7.0, blocks.7.1
    _fc                                    unused: the names of ImageNet's categories
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.io.packaged_weights import EFFICIENTNET_LITE0, find_packaged_weights
from lit_hour.model.conv_tower import EFFICIENTNET_HEAD_STAGE, EFFICIENTNET_STAGES
from lit_hour.weights.name_map import TOWER
from lit_hour.weights.reader import StoredWeights, check_state_dict

TRUNK = f"{TOWER}trunk."
# raised by torch.load; the last ones by its reader of the format before 2020, which the file has
UNREADABLE = (OSError, RuntimeError, UnpicklingError, EOFError, LookupError, ValueError)
CLASSIFIER = ("_fc.weight", "_fc.bias")
TOP_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": f"blocks.{EFFICIENTNET_HEAD_STAGE}.0",
    "_bn1": f"blocks.{EFFICIENTNET_HEAD_STAGE}.1",
}
BLOCK_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST_STAGE_NAMES = {  # without expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
BLOCK_OF = [  # number of a block in the file: stage, and block in it
    (stage, block)
    for stage, num_blocks in enumerate(EFFICIENTNET_STAGES)
    for block in range(num_blocks)
]
BLOCK_WEIGHT = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def open_efficientnet(
    settings: VisionConfig, meta_tensors: Mapping[str, Tensor]
) -> tuple[StoredWeights, tuple[str, ...]]:
    """Open the weights of `model.vision.weights=efficientnet-lite0`.

    Args:
        settings: of the vision encoder.
        meta_tensors: state dict of the model, or of its tower.

    Returns:
        The weights, and the names of those in the file that the tower lacks.

    Raises:
        ConfigError: `model.vision.name` is another tower.
        WeightsError: the package is missing, or its file is damaged or does not fit the tower.
    """
    if not settings.name.startswith(EFFICIENTNET_LITE0):
        raise ConfigError(
            f"model.vision.weights={EFFICIENTNET_LITE0} does not fit"
            f" model.vision.name={settings.name}. Set model.vision.name={EFFICIENTNET_LITE0}."
        )
    file = find_packaged_weights(EFFICIENTNET_LITE0, "model.vision.weights")
    state = read_efficientnet(file)
    wanted = {name: meta for name, meta in meta_tensors.items() if name.startswith(TOWER)}
    unused = tuple(name for name in state if name not in wanted and name.startswith(CLASSIFIER))
    weights = {name: weight for name, weight in state.items() if name not in unused}
    if settings.layer != -1:  # later blocks are removed from the tower
        weights = {name: weight for name, weight in weights.items() if name in wanted}
    check_state_dict(wanted, weights, f"model.vision.weights={EFFICIENTNET_LITE0}: {file}")
    metas = {name: weight.to("meta") for name, weight in weights.items()}
    return StoredWeights(file, metas, weights.__getitem__), unused


def read_efficientnet(file: Path) -> dict[str, Tensor]:
    """Read a file of EfficientNet-PyTorch; a weight that is not in the tables keeps its name.

    Raises:
        WeightsError: the file is damaged, or would run code when unpickled.
    """
    damaged = WeightsError(
        f"{file} is damaged or not a file of weights. Install its package again."
    )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise damaged from error
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise damaged
    return {_tower_name(name): weight for name, weight in state.items()}


def _tower_name(name: str) -> str:
    if found := BLOCK_WEIGHT.fullmatch(name):
        number, part, kind = int(found[1]), found[2], found[3]
        stage, block = BLOCK_OF[number] if number < len(BLOCK_OF) else (-1, -1)
        names = BLOCK_NAMES if stage else FIRST_STAGE_NAMES
        if stage >= 0 and part in names:
            return f"{TRUNK}blocks.{stage}.{block}.{names[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{TRUNK}{TOP_NAMES[part]}.{kind}" if part in TOP_NAMES else name
