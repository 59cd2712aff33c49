"""Adapters of the language model in the folder layout of peft.

`adapter_settings` and `open_adapter` read a folder for a run that starts from it
(`model.llm.lora.path`); `peft_export.py` writes one.

    adapter_config.json           rank, scale, layers, variant
    adapter_model.safetensors     base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_hour.config.model import LORA_TARGETS
from lit_hour.errors import WeightsError, download_hint
from lit_hour.weights.name_map import ADAPTER
from lit_hour.weights.reader import StoredWeights, check_state_dict, open_weights

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX, LLM_PREFIX = "base_model.model.", "llm.network."
NAME_SUFFIXES = {  # ours to peft's, which stores the magnitude without `.weight`
    ".lora_magnitude_vector.default.weight": ".lora_magnitude_vector",
    ".default.weight": ".weight",
}
SUPPORTED: dict[str, tuple[Any, ...]] = {  # values by their key in adapter_config.json
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None, []),
    "exclude_modules": (None, []),
    "use_qalora": (False, None),
    # the other initializations change the frozen weights
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "use_bdlora": (None, False),
}


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the fields of `LoraConfig` that an adapter's configuration gives.

    Raises:
        WeightsError: The folder is not an adapter, or one that is computed otherwise here.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise WeightsError(
            f"model.llm.lora.path={folder} has no {ADAPTER_CONFIG}. Give the folder of an adapter"
            f" in peft's layout.{download_hint(folder)}"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        rank, alpha = int(values["r"]), float(values["lora_alpha"])
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError(f"r={rank}, lora_alpha={alpha}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is corrupt: {error!r}. Download it again.") from error
    for key, allowed in SUPPORTED.items():
        if values.get(key, allowed[0]) not in allowed:
            raise WeightsError(
                f"{file} has {key}={values[key]}, which is not supported. Only {allowed[0]!r} is."
            )
    named = values.get("target_modules")
    targets = list(LORA_TARGETS) if named == "all-linear" else named
    if (
        not isinstance(targets, list)
        or not targets
        or any(name not in LORA_TARGETS for name in targets)
    ):
        raise WeightsError(
            f"{file} has target_modules={named}. Only {', '.join(LORA_TARGETS)} can have adapters."
        )
    names = tuple(name for name in LORA_TARGETS if name in targets)
    return {
        "rank": rank,
        "alpha": alpha,
        "targets": ",".join(names) if names != LORA_TARGETS else "all",
        "use_dora": bool(values.get("use_dora")),
        "use_rslora": bool(values.get("use_rslora")),
    }


def open_adapter(folder: Path, model: Mapping[str, Tensor]) -> StoredWeights:
    """Open the weights of an adapter under their names in the model.

    Args:
        folder: in peft's layout.
        model: state dict of the model, with these adapters; meta tensors will do.

    Raises:
        WeightsError: A weight is missing, unexpected or of another shape, or the file is corrupt.
    """
    stored = open_weights(folder / ADAPTER_WEIGHTS)
    ours = {peft_name_of(name): name for name in model if ADAPTER in name}
    expected = {peft_name: model[name] for peft_name, name in ours.items()}
    check_state_dict(expected, stored.meta_tensors, f"model.llm.lora.path={folder}")
    return stored.renamed(ours.__getitem__)


def peft_name_of(name: str) -> str:
    """Return peft's name of a weight of an adapter of ours."""
    suffix = next(suffix for suffix in NAME_SUFFIXES if name.endswith(suffix))
    return PEFT_PREFIX + name.removeprefix(LLM_PREFIX).removesuffix(suffix) + NAME_SUFFIXES[suffix]
