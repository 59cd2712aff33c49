"""Convert between a Hugging Face config.json and the settings; reject what would differ here.

Start at `read_published_config` and `settings_from_hf`; `hf_config_values` is the way back.
"""

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
from lit_hour.io.gguf_file import GGUF
from lit_hour.weights.gguf_llm import gguf_config_values

Kind = Literal["Hour-LLaVA", "LLaVA-OneVision", "a plain language model"]

CONFIG = "config.json"
KINDS: dict[tuple[Any, Any], Kind] = {  # (model_type, architecture)
    ("hour_llava_qwen", "HourLlavaQwenForCausalLM"): "Hour-LLaVA",
    ("llava_qwen", "LlavaQwenForCausalLM"): "LLaVA-OneVision",
    ("llava", "LlavaQwenForCausalLM"): "LLaVA-OneVision",
    ("qwen2", "Qwen2ForCausalLM"): "a plain language model",
    ("llama", "LlamaForCausalLM"): "a plain language model",
}
SUPPORTED_LLM = {  # supported values; None where the key may be missing
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
    "attention_bias": (False, None),  # of Llama; Qwen2 has a fixed one
    "mlp_bias": (False, None),
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
PUBLISHED_MODEL_TYPE = "qwen2"  # of the language model inside Hour-LLaVA and LLaVA-OneVision
# Hugging Face's name to open_clip's name and the image side in pixels
TOWERS = {"google/siglip-so400m-patch14-384": ("ViT-SO400M-14-SigLIP-384", 384)}
UNLIMITED_TOKENS = (
    2**20
)  # tokens; no text is longer, and without a length the published code cuts none
UNLIMITED_FRAMES = 1_000_000  # eleven days; the published code has no limit
HARD_CODED = {  # constants of the published code, independent of config.json
    "text.memaug_question_scope": "all",
    "text.time_sentence": "published",
    "text.frame_times": "off",
    "video.sampling": "published",
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
    """A supported config.json, as read from `file`, or what a GGUF file has in its place."""

    file: Path
    values: Mapping[str, Any]
    kind: Kind

    @property
    def source(self) -> Path:
        """The folder of the model, or its GGUF file."""
        return self.file if self.file.suffix == GGUF else self.file.parent

    def number(self, key: str) -> int | float:
        """Return a required number."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WeightsError(f"{self.file}: {key}={value!r} must be a number.")
        return value

    def integer(self, key: str) -> int:
        """Return a required integer."""
        value = self.number(key)
        if not isinstance(value, int):
            raise WeightsError(f"{self.file}: {key}={value!r} must be an integer.")
        return value

    def unsupported(self, key: str, right: str) -> WeightsError:
        """Build the error for an unsupported value."""
        written = f"{key}={self.values[key]!r}" if key in self.values else f"missing {key}"
        return WeightsError(f"{self.file}: {written} is unsupported. Supported: {right}.")


def is_published(folder: Path) -> bool:
    """Return True for a folder in the Hugging Face layout."""
    return (folder / CONFIG).is_file()


def check_tokenizer(published: PublishedConfig, num_tokens: int) -> None:
    """Reject a tokenizer with more tokens than the embedding has rows.

    Raises:
        WeightsError: It has more tokens.
    """
    num_rows = published.integer("vocab_size")
    if num_tokens > num_rows:
        raise WeightsError(
            f"{published.file}: vocab_size={num_rows} is less than the {num_tokens} tokens of the"
            " tokenizer beside it. The tokenizer belongs to another model."
        )


def read_published_config(source: Path) -> PublishedConfig:
    """Read and check a folder's config.json, or the metadata of a GGUF file.

    Raises:
        WeightsError: It is missing or corrupt, or describes a model that would be computed
            differently here.
    """
    if source.suffix == GGUF:
        file, values = source, gguf_config_values(source)
    else:
        file, values = source / CONFIG, _read_config_json(source)
    if not isinstance(values, dict):
        raise WeightsError(f"{file} must be a mapping, not {values!r:.60}.")
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
            f"{file}: model_type={values.get('model_type')!r} with architectures={names!r} is"
            f" unsupported. Supported: {known}."
        )
    published = PublishedConfig(file, values, kind)
    for key, allowed in SUPPORTED[kind].items():
        if values.get(key) not in allowed:
            raise published.unsupported(
                key, " or ".join("none" if value is None else repr(value) for value in allowed)
            )
    return published


def _read_config_json(folder: Path) -> Any:
    file = folder / CONFIG
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} has no {CONFIG}. Give a folder in the Hugging Face layout."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is corrupt: {error}") from error


def llm_settings(published: PublishedConfig) -> dict[str, Any]:
    """Return the language model's settings, as `model.llm` has them.

    Raises:
        WeightsError: A size is missing, or the rotary embedding is not the plain one.
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
    # False is the default of Qwen2 and Llama, which their files may omit
    tied = published.values.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise published.unsupported("tie_word_embeddings", "true or false")
    head_dim = published.values.get("head_dim")
    if head_dim not in (None, sizes["hidden_size"] // max(1, sizes["num_heads"])):
        raise published.unsupported("head_dim", "hidden_size / num_attention_heads")
    is_plain, model_type = (
        published.kind == "a plain language model",
        published.values["model_type"],
    )
    return {
        **sizes,
        "model_type": model_type if is_plain else PUBLISHED_MODEL_TYPE,
        "rms_norm_eps": float(published.number("rms_norm_eps")),
        "rope_theta": float(with_theta.number("rope_theta")),
        "tie_word_embeddings": tied,
    }


def settings_from_hf(published: PublishedConfig, names_tower: bool) -> dict[str, Any]:
    """Return the settings of a published Hour-LLaVA, nested like the schema.

    Args:
        published: its checked config.json.
        names_tower: True if the user names the vision tower, which then need not be a known one.

    Raises:
        WeightsError: A value is missing or unsupported.
    """
    tower = published.values.get("mm_vision_tower")
    known = {PurePosixPath(name).name: found for name, found in TOWERS.items()}.get(
        PurePosixPath(str(tower)).name
    )
    if known is None and not names_tower:
        raise published.unsupported(
            "mm_vision_tower",
            f"{' or '.join(TOWERS)}; for another SigLIP give model.vision.name= and "
            "video.image_size=",
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
            else UNLIMITED_TOKENS,
            "time_sentence": HARD_CODED["text.time_sentence"],
        },
        "image": {"max_tiles": int(aspect_ratio[1]), "max_grid": _max_grid(published, size_pixels)},
        "video": {
            "sampling": HARD_CODED["video.sampling"],
            "max_frames": UNLIMITED_FRAMES,
            **({"image_size": size_pixels} if known else {}),
        },
        "model": {
            **({"vision": {"name": name}} if known else {}),
            "memaug": {
                "num_layers": published.integer("memaug_depth"),
                "spatial_forgetting": forgetting,
                "eval_spatial_forgetting": forgetting,  # the published code has one for both
            },
            "llm": llm_settings(published),
        },
    }


def _max_grid(published: PublishedConfig, size_pixels: int) -> int:
    """Return the side of the largest tile grid, if the list has every grid up to it.

    With `size_pixels` 0, tiles may have any size.
    """
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
    return tuple(item for item in value if type(item) is int) if isinstance(value, list) else ()


def hf_config_values(config: Config, num_rows: int, vision_dim: int, dtype: str) -> dict[str, Any]:
    """Build the config.json of an Hour-LLaVA with these settings.

    Args:
        config: settings of the run.
        num_rows: rows of the embedding.
        vision_dim: width of the vision tower.
        dtype: dtype of the weights, as torch names it.

    Raises:
        ConfigError: The published code lacks this kind of forgetting or of language model.
    """
    language, forgetting, side = (
        config.model.llm,
        config.model.memaug.spatial_forgetting,
        config.video.image_size,
    )
    _check_convertible(config)
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


def _check_convertible(config: Config) -> None:
    """Check that the published code has this kind of language model and of forgetting.

    Raises:
        ConfigError: It does not.
    """
    model_type, forgetting = config.model.llm.model_type, config.model.memaug.spatial_forgetting
    if model_type != PUBLISHED_MODEL_TYPE:
        raise ConfigError(
            f"model.llm.model_type={model_type} is unsupported by the published code. Only a run"
            f" with {PUBLISHED_MODEL_TYPE} can be converted."
        )
    if forgetting not in SUPPORTED["Hour-LLaVA"]["spatial_sampling_type"]:
        raise ConfigError(
            f"model.memaug.spatial_forgetting={forgetting} is unsupported by the published code."
            " Set uniform or random."
        )


def differences_from_published(config: Config) -> list[str]:
    """List the settings that the published code ignores, with the values that it uses."""
    memory = config.model.memaug
    fixed = HARD_CODED | {"model.memaug.eval_spatial_forgetting": memory.spatial_forgetting}
    values = {name: attrgetter(name)(config) for name in fixed}
    return [
        f"{name}={values[name]} (published: {right})"
        for name, right in fixed.items()
        if values[name] != right
    ]
