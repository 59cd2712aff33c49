"""The published model's recorded weights, inputs and outputs, under our names and as our types.

The names are here and nowhere else:

    model.image_newline                               frame_end
    model.mm_projector.*                              projector.layers.*
    model.embed_tokens, model.layers, model.norm      language.network.model.*
    lm_head.*                                         language.network.lm_head.*
    model.vision_resampler.layers.N.*                 memory.blocks.N.*       (as MEMORY_NAMES and JOINED say)
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_hour.config.schema import (
    Config,
    LanguageConfig,
    MemoryConfig,
    ModelConfig,
    TextConfig,
    VideoConfig,
    VisionConfig,
)
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import IGNORED_LABEL, VIDEO_PLACEHOLDER, Batch, Features

WIDE_TOWER, WIDE_TOWER_PIXELS = "lit-hour-wide", 16  # as wide as the published tower, for a projector of the same shape

MEMORY_PREFIX = "model.vision_resampler."
PREFIXES = {  # the first that fits
    "model.image_newline": "frame_end",
    "model.mm_projector.": "projector.layers.",
    "model.": "language.network.model.",
    "lm_head.": "language.network.lm_head.",
}
MEMORY_NAMES = {
    "self_attn.Wo": "self_attention.output",
    "cross_attn.Wq": "cross_attention.query",
    "cross_attn.Wo": "cross_attention.output",
    "mlp.0": "feed_forward.0",
    "mlp.2": "feed_forward.2",
    "norm1": "self_attention_norm",
    "norm2": "cross_attention_norm",
    "norm3": "feed_forward_norm",
}
JOINED = {  # one matrix there, several here; queries have as many rows as the model is wide, keys and values share the rest
    "self_attn.Wqkv": ("self_attention.query", "self_attention.key", "self_attention.value"),
    "cross_attn.Wkv": ("cross_attention.key", "cross_attention.value"),
}


def read(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a recorded file, integers as int64, and what its sidecar says."""
    tensors = load_file(golden / f"{name}.safetensors")
    sidecar = json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))
    return {key: value.long() if value.dtype == torch.int32 else value for key, value in tensors.items()}, sidecar


def translate(state: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Weights or gradients of the whole published model, `dim` wide, under our names."""
    memory = {name.removeprefix(MEMORY_PREFIX): weight for name, weight in state.items() if name.startswith(MEMORY_PREFIX)}
    translated = {f"memory.{name}": weight for name, weight in translate_memory(memory, dim).items()}
    for name, weight in state.items():
        if not name.startswith(MEMORY_PREFIX):
            prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
            translated[PREFIXES[prefix] + name.removeprefix(prefix)] = weight
    return translated


def translate_memory(state: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Weights or gradients of the published MemAug alone, `dim` wide, under our names."""
    return dict(renamed for name, weight in state.items() for renamed in _translate_in_block(name, weight, dim))


def _translate_in_block(name: str, weight: Tensor, dim: int) -> Iterator[tuple[str, Tensor]]:
    _, number, *middle, kind = name.split(".")  # layers, N, self_attn, Wo, weight
    theirs = ".".join(middle)
    if theirs not in JOINED:
        yield f"blocks.{number}.{MEMORY_NAMES[theirs]}.{kind}", weight
        return
    parts = JOINED[theirs]
    queries, keys_and_values = weight.tensor_split([dim if len(parts) == 3 else 0])
    rows = [queries, *keys_and_values.chunk(2)][-len(parts) :]
    yield from ((f"blocks.{number}.{part}.{kind}", part_rows) for part, part_rows in zip(parts, rows, strict=True))


def published_model(golden: Path, weights: str) -> HourLLaVA:
    """Our model with the recorded weights ("full_tied" or "full_untied"); its vision tower stays random and unused."""
    state, sidecar = read(golden, f"{weights}_state")
    sizes = sidecar["config.json"]
    config = Config(
        video=VideoConfig(size_pixels=WIDE_TOWER_PIXELS),
        text=TextConfig(max_tokens=sizes["tokenizer_model_max_length"]),
        model=ModelConfig(
            vision=VisionConfig(name=WIDE_TOWER, layer=-1),
            memory=MemoryConfig(num_layers=sizes["memaug_depth"]),
            language=LanguageConfig(
                hidden_size=sizes["hidden_size"],
                num_layers=sizes["num_hidden_layers"],
                num_heads=sizes["num_attention_heads"],
                num_key_value_heads=sizes["num_key_value_heads"],
                intermediate_size=sizes["intermediate_size"],
                rope_theta=sizes["rope_theta"],
                tie_embeddings=sizes["tie_word_embeddings"],
            ),
        ),
    )
    model = HourLLaVA(config, sizes["vocab_size"])
    fit = model.load_state_dict(translate(state, sizes["hidden_size"]), strict=False)
    tied = {"language.network.lm_head.weight"} if sizes["tie_word_embeddings"] else set()
    missing = {name for name in fit.missing_keys if not name.startswith("vision.")}
    assert (missing, fit.unexpected_keys) == (tied, [])
    return model.eval()


@dataclass(frozen=True)
class Case:
    """One recorded run of the whole model: what went in, as our batch, and what came out."""

    batch: Batch
    recorded: dict[str, Tensor]
    sidecar: dict[str, Any]


def read_case(golden: Path, name: str) -> Case:
    """A recorded run; as there, MemAug sees the text that has no label."""
    recorded, sidecar = read(golden, name)
    input_ids, labels, is_real = recorded["input_ids"], recorded["labels"], recorded["attention_mask"].bool()
    videos = tuple(None if video == "dummy" else _features(golden, video) for video in sidecar["videos"])
    batch = Batch(
        keys=tuple(sidecar["videos"]),
        videos=videos,
        video_of_text=tuple(range(len(videos))),
        input_ids=input_ids,
        labels=labels,
        question_mask=(labels == IGNORED_LABEL) & is_real & (input_ids != VIDEO_PLACEHOLDER),
        attention_mask=is_real,
        questions=((),) * len(videos),
    )
    return Case(batch, recorded, sidecar)


@cache
def _features(golden: Path, name: str) -> Features:
    """A recorded video, which is stored as eight channels that are repeated and scaled."""
    stored, _ = read(golden, "full_features")
    channels = stored[f"{name}/small"][..., stored["chan_index"]] * stored["chan_gain"]  # (frames, 8, 8, vision_dim)
    return Features(channels.flatten(1, 2), torch.arange(len(channels)).float())  # (frames, 64, vision_dim), (frames,)
