"""A published config.json <-> settings of ours; what would be computed differently here is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, WeightsError

Kind = Literal["Hour-LLaVA", "LLaVA-OneVision", "a plain language model"]

CONFIG = "config.json"
KINDS: dict[tuple[Any, Any], Kind] = {  # (model_type, architecture)
    ("hour_llava_qwen", "HourLlavaQwenForCausalLM"): "Hour-LLaVA",
    ("llava_qwen", "LlavaQwenForCausalLM"): "LLaVA-OneVision",
    ("llava", "LlavaQwenForCausalLM"): "LLaVA-OneVision",
    ("qwen2", "Qwen2ForCausalLM"): "a plain language model",
}
SUPPORTED_LLM = {  # what is computed; None where it may be absent
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}
SUPPORTED: dict[Kind, dict[str, tuple[Any, ...]]] = {
    "Hour-LLaVA": SUPPORTED_LLM
    | {
        "mm_resampler_type": ("memaug",),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("spatial_unpad",),
        "mm_newline_position": ("grid",),
        "mm_spatial_pool_mode": ("bilinear", None),
        "spatial_sampling_type": ("uniform", "random"),
    },
    "LLaVA-OneVision": SUPPORTED_LLM
    | {
        "mm_resampler_type": (None,),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("spatial_unpad",),
    },
    "a plain language model": SUPPORTED_LLM,
}
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
}
TOWERS = {
    "google/siglip-so400m-patch14-384": ("ViT-SO400M-14-SigLIP-384", 384)
}  # open_clip's name, side in pixels
UNLIMITED_TOKENS = (
    2**20
)  # tokens; no text is longer, and without a length the published code cuts none
HARD_CODED = {  # what the published code does whatever config.json says
    "text.memaug_question_scope": "all",
    "model.vision.layer": -2,
    "model.vision.grid": 8,
    "model.vision.tanh_gelu": True,
    "model.memaug.min_frames": 128,
    "model.memaug.max_kept_frames": 512,
    "model.memaug.spatial_keep_ratio": 0.25,
    "model.memaug.temporal_keep_ratio": 0.25,
    "model.memaug.temporal_forgetting": "uniform",
}


@dataclass(frozen=True)
class PublishedConfig:
    """A config.json of a model that can be computed here, as it was read from `file`."""

    file: Path
    values: Mapping[str, Any]
    kind: Kind

    def number(self, key: str) -> int | float:
        """A number that has to be there."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WeightsError(f"{self.file}: {key}={value!r} has to be a number")
        return value

    def integer(self, key: str) -> int:
        """A whole number that has to be there."""
        value = self.number(key)
        if not isinstance(value, int):
            raise WeightsError(f"{self.file}: {key}={value!r} has to be a whole number")
        return value

    def unsupported(self, key: str, right: str) -> WeightsError:
        """The error for a value that is not computed here."""
        written = f"{key}={self.values[key]!r}" if key in self.values else f"{key} is not there"
        return WeightsError(f"{self.file}: {written}: computed here is {right}")


def is_published(folder: Path) -> bool:
    """Whether a folder is in the Hugging Face layout."""
    return (folder / CONFIG).is_file()


def check_tokenizer(published: PublishedConfig, num_tokens: int) -> None:
    """Refuse a tokenizer with more tokens than the embedding has rows.

    Raises:
        WeightsError: it has.
    """
    num_rows = published.integer("vocab_size")
    if num_tokens > num_rows:
        raise WeightsError(
            f"{published.file}: vocab_size={num_rows}, and the tokenizer beside it has {num_tokens} tokens:"
            " it belongs to another model"
        )


def read_published_config(folder: Path) -> PublishedConfig:
    """Read a folder's config.json.

    Raises:
        WeightsError: it is missing or damaged, or describes what would be computed differently here.
    """
    file = folder / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"no {CONFIG} in {folder}: it has to be a folder in the Hugging Face layout"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file} has to be a mapping, not {values!r:.60}")
    names = values.get("architectures")
    kind = KINDS.get(
        (
            str(values.get("model_type")),
            str(names[0]) if isinstance(names, list) and names else None,
        )
    )
    if kind is None:
        known = ", or ".join(
            f"{model_type!r} with architectures=[{name!r}]" for model_type, name in KINDS
        )
        raise WeightsError(
            f"{file}: model_type={values.get('model_type')!r} with architectures={names!r} is another architecture:"
            f" computed here is {known}"
        )
    published = PublishedConfig(file, values, kind)
    for key, allowed in SUPPORTED[kind].items():
        if values.get(key) not in allowed:
            raise published.unsupported(
                key, " or ".join("none" if each is None else repr(each) for each in allowed)
            )
    return published


def llm_settings(published: PublishedConfig) -> dict[str, Any]:
    """Its language model, as `model.llm` has it.

    Raises:
        WeightsError: a size is missing, or positions are not plain rotary ones.
    """
    sizes = {ours: published.integer(theirs) for theirs, ours in SIZES.items()}
    rope = published.values.get("rope_parameters")
    if rope is not None and (
        not isinstance(rope, dict) or rope.get("rope_type", "default") != "default"
    ):
        raise published.unsupported("rope_parameters", "rope_type='default'")
    with_theta = (
        published if rope is None else PublishedConfig(published.file, rope, published.kind)
    )
    tied = published.values.get(
        "tie_word_embeddings", False
    )  # Qwen2's default, which its files may leave out
    if not isinstance(tied, bool):
        raise published.unsupported("tie_word_embeddings", "true or false")
    return {
        **sizes,
        "rms_norm_eps": float(published.number("rms_norm_eps")),
        "rope_theta": float(with_theta.number("rope_theta")),
        "tie_word_embeddings": tied,
    }


def settings_from_hf(published: PublishedConfig, names_tower: bool) -> dict[str, Any]:
    """The settings of a published Hour-LLaVA, nested as the schema is.

    Args:
        names_tower: whether the user names the vision tower, which then need not be a known one.

    Raises:
        WeightsError: a value is missing, or stands for what is not computed here.
    """
    tower = published.values.get("mm_vision_tower")
    known = {PurePosixPath(name).name: found for name, found in TOWERS.items()}.get(
        PurePosixPath(str(tower)).name
    )
    if known is None and not names_tower:
        raise published.unsupported(
            "mm_vision_tower",
            f"{' or '.join(TOWERS)}; for another SigLIP give model.vision.name= and video.image_size=",
        )
    name, size_pixels = known or ("", 0)
    aspect_ratio = re.fullmatch(
        r"anyres_max_(\d+)", str(published.values.get("image_aspect_ratio"))
    )
    if aspect_ratio is None:
        raise published.unsupported("image_aspect_ratio", "'anyres_max_N', such as 'anyres_max_9'")
    forgetting, longest = published.values["spatial_sampling_type"], "tokenizer_model_max_length"
    return {
        "text": {
            "max_tokens": published.integer(longest)
            if longest in published.values
            else UNLIMITED_TOKENS
        },
        "image": {"max_tiles": int(aspect_ratio[1]), "max_grid": _max_grid(published, size_pixels)},
        **({"video": {"image_size": size_pixels}} if known else {}),
        "model": {
            **({"vision": {"name": name}} if known else {}),
            "memaug": {
                "num_layers": published.integer("memaug_depth"),
                "spatial_forgetting": forgetting,
                "eval_spatial_forgetting": forgetting,  # the published code does not tell answering from training
            },
            "llm": llm_settings(published),
        },
    }


def _max_grid(published: PublishedConfig, size_pixels: int) -> int:
    """Rows and columns of the largest grid, where the list has every grid up to it; 0 pixels: tiles of any size."""
    key = "image_grid_pinpoints"
    listed = published.values.get(key)
    if isinstance(listed, str) and (found := re.fullmatch(r"\(1x1\),\.\.\.,\((\d+)x\1\)", listed)):
        return int(found[1])
    pairs = [_integers(pair) for pair in listed] if isinstance(listed, list) else []
    sides = sorted({side for pair in pairs for side in pair})
    multiples = [sides[0] * number for number in range(1, len(sides) + 1)] if sides else []
    is_whole = sorted(pairs) == [(width, height) for width in multiples for height in multiples]
    if not sides or not is_whole or (size_pixels and sides[0] != size_pixels):
        tiles = f"tiles of {size_pixels or 'some'} pixels"
        raise published.unsupported(
            key, f"every grid of {tiles} from 1 x 1 to N x N, or '(1x1),...,(NxN)'"
        )
    return len(sides)


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(each for each in value if type(each) is int) if isinstance(value, list) else ()


def hf_config_values(config: Config, num_rows: int, vision_dim: int, dtype: str) -> dict[str, Any]:
    """The config.json of an Hour-LLaVA of these settings.

    Args:
        num_rows: of the embedding.
        vision_dim: width of the vision tower.
        dtype: of its weights, as torch names it.

    Raises:
        ConfigError: it forgets in a way that the published code does not have.
    """
    language, forgetting, side = (
        config.model.llm,
        config.model.memaug.spatial_forgetting,
        config.video.image_size,
    )
    if forgetting not in SUPPORTED["Hour-LLaVA"]["spatial_sampling_type"]:
        raise ConfigError(
            f"model.memaug.spatial_forgetting={forgetting}: the published code has uniform and random"
        )
    tower = {name: published for published, (name, _) in TOWERS.items()}.get(
        config.model.vision.name, config.model.vision.name
    )
    grid = range(1, config.image.max_grid + 1)
    return {
        "architectures": ["HourLlavaQwenForCausalLM"],
        "model_type": "hour_llava_qwen",
        **{theirs: getattr(language, ours) for theirs, ours in SIZES.items()},
        "vocab_size": num_rows,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_theta": language.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": language.tie_word_embeddings,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "max_position_embeddings": config.text.max_tokens,
        "tokenizer_model_max_length": config.text.max_tokens,
        "tokenizer_padding_side": "right",
        "memaug_depth": config.model.memaug.num_layers,
        "spatial_sampling_type": forgetting,
        "mm_resampler_type": "memaug",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "grid",
        "mm_spatial_pool_mode": "bilinear",
        "mm_hidden_size": vision_dim,
        "mm_vision_tower": tower,
        "image_aspect_ratio": f"anyres_max_{config.image.max_tiles}",
        "image_grid_pinpoints": [
            [side * width, side * height] for width in grid for height in grid
        ],
        "torch_dtype": dtype,
        "use_cache": True,
    }


def differences_from_published(config: Config) -> list[str]:
    """The settings for which the published code computes something else, each with what it does."""
    memory = config.model.memaug
    fixed = HARD_CODED | {"model.memaug.eval_spatial_forgetting": memory.spatial_forgetting}
    values = {name: attrgetter(name)(config) for name in fixed}
    return [
        f"{name}={values[name]}, there {right}"
        for name, right in fixed.items()
        if values[name] != right
    ]
