"""The recorded published model: converted weights, inputs and outputs."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lit_hour.config.model import MemAugConfig, VisionConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import (
    MemoryRepository,
    build_image_set_repository,
    build_tiled_image_repository,
)
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch, Features
from lit_hour.weights.convert import convert
from lit_hour.weights.name_map import (
    MEMAUG,
    PUBLISHED_MEMAUG,
    PUBLISHED_TOWER,
    TOWER,
    convert_from_hf,
    hf_meta_tensors,
    weight_group,
)
from tests.helpers.siglip_tower import lit_hour_siglip

MODEL_CASES = (
    "full_tied_single_video",
    "full_tied_text_only",
    "full_tied_multi_turn",
    "full_untied_single_video",
    "full_untied_batch_two",
    "full_untied_text_only",
    "full_untied_batch_text_video",
    "full_untied_multi_turn",
    "full_untied_multi_turn_qwen_labels",
    "full_untied_prompt_only",
)
IMAGE_CASES = (
    "single_one_tile",
    "anyres_small",
    "anyres_tall",
    "anyres_downscaled",
    "multi_image_3",
)
MEMAUG_FILES = ("memaug_a", "memaug_b", "memaug_c")
MEMAUG_VARIANTS = {  # whether positions of the query and of the memory are given
    "default": (False, False),
    "explicit": (True, True),
    "mixed": (True, False),
}
WIDE_TOWER, WIDE_TOWER_PIXELS = "lit-hour-siglip-wide", 28  # as wide as the published tower
SIGLIP_PREFIX = PUBLISHED_TOWER.removesuffix("vision_model.")


@register_model
def lit_hour_siglip_wide(pretrained: bool = False, **sizes: Any) -> VisionTransformer:
    """Build a tower of two blocks on images of 2 x 2 patches."""
    return lit_hour_siglip(
        pretrained, img_size=28, embed_dim=1152, num_heads=8, depth=2, mlp_ratio=0.125, **sizes
    )


def read(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a recorded file, integers as int64, and its sidecar."""
    file = golden / f"{name}.safetensors"
    if not file.exists():
        pytest.skip(f"the large recording {name} is not beside the checkout")
    sidecar = json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))
    tensors = {
        key: value.long() if value.dtype == torch.int32 else value
        for key, value in load_file(file).items()
    }
    return tensors, sidecar


def translate(state: Mapping[str, Tensor], model: HourLLaVA) -> dict[str, Tensor]:
    """Convert weights or gradients of the published model, or some of them, to our names."""
    return _translate(state, model.state_dict(), model.llm.dim)


def translate_memaug(
    state: Mapping[str, Tensor], memaug: MemoryAugmentation, dim: int
) -> dict[str, Tensor]:
    """Convert weights or gradients of the published MemAug, `dim` wide, to our names."""
    published = {PUBLISHED_MEMAUG + name: tensor for name, tensor in state.items()}
    ours = _translate(published, [MEMAUG + name for name in memaug.state_dict()], dim)
    return {name.removeprefix(MEMAUG): tensor for name, tensor in ours.items()}


def _translate(state: Mapping[str, Tensor], names: Iterable[str], dim: int) -> dict[str, Tensor]:
    """Convert by the name map of the project, which must know every name in `state`."""
    names = [name for name in names if not name.startswith(TOWER)]
    groups = [
        group
        for group in dict.fromkeys(map(weight_group, names))
        if set(group.published) <= state.keys()
    ]
    assert {name for group in groups for name in group.published} == state.keys()
    converted = {}
    for group in groups:
        converted |= convert_from_hf(group, [state[name] for name in group.published], dim)
    return converted


def write_published(golden: Path, weights: str, folder: Path) -> None:
    """Write a recorded model ("full_tied" or "full_untied") in the Hugging Face layout."""
    _, sidecar = read(golden, f"{weights}_state")
    folder.mkdir()
    shutil.copyfile(golden / f"{weights}_state.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sidecar["config.json"]), encoding="utf-8")
    train_byte_level_tokenizer([], 300).save_pretrained(str(folder))


def write_siglip(folder: Path) -> None:
    """Write a Hugging Face SigLIP with random weights, as wide as the published one."""
    torch.manual_seed(0)
    with torch.device("meta"):
        tower = {
            f"vision.{name}": weight
            for name, weight in VisionEncoder(VisionConfig(name=WIDE_TOWER)).state_dict().items()
        }
    weights = {
        name.removeprefix(SIGLIP_PREFIX): 0.02 * torch.randn(weight.shape)
        for name, weight in hf_meta_tensors(tower).items()
    }
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")


@cache
def published_model(golden: Path, weights: str) -> HourLLaVA:
    """Convert a recorded model ("full_tied" or "full_untied") and open it as a run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_published(golden, weights, folder / "published")
        write_siglip(folder / "siglip")
        tower = (
            f"model.vision.name={WIDE_TOWER}",
            f"model.vision.weights={folder}/siglip",
            f"video.image_size={WIDE_TOWER_PIXELS}",
        )
        convert(folder / "published", folder / "run", tower)
        return VideoPredictor.from_run(folder / "run", device="cpu").model


@dataclass(frozen=True)
class Case:
    """One recorded call of the whole model: the inputs, as our batch, and the outputs."""

    batch: Batch
    recorded: dict[str, Tensor]
    sidecar: dict[str, Any]


def read_case(golden: Path, name: str) -> Case:
    """Read one of `MODEL_CASES`. As there, MemAug sees the text that has no label."""
    recorded, sidecar = read(golden, name)
    input_ids, labels = recorded["input_ids"], recorded["labels"]
    attention_mask = recorded["attention_mask"].bool()
    is_question = (labels == IGNORE_INDEX) & attention_mask & (input_ids != IMAGE_TOKEN_INDEX)
    videos = tuple(
        None if video == "dummy" else _features(golden, video) for video in sidecar["videos"]
    )
    batch = Batch(
        keys=tuple(sidecar["videos"]),
        visuals=videos,
        visual_of_text=tuple(range(len(videos))),
        input_ids=input_ids,
        labels=labels,
        question_mask=is_question,
        attention_mask=attention_mask,
        questions=((),) * len(videos),
    )
    return Case(batch, recorded, sidecar)


@cache
def _features(golden: Path, name: str) -> Features:
    """Return a recorded video, which is stored as eight channels, repeated and scaled."""
    stored, _ = read(golden, "full_features")
    channels = stored[f"{name}/small"][..., stored["chan_index"]]  # (frames, 8, 8, vision_dim)
    tokens = (channels * stored["chan_gain"]).flatten(1, 2)  # (frames, 64, vision_dim)
    return Features(tokens, torch.arange(len(tokens)).float())


def published_memaug(
    golden: Path, name: str, use_full_memory: bool = True
) -> tuple[MemoryAugmentation, dict[str, Tensor], dict[str, Any]]:
    """Return MemAug with recorded weights, the recorded tensors, and its sizes."""
    recorded, sidecar = read(golden, name)
    sizes = sidecar["config"]
    memaug = MemoryAugmentation(
        sizes["hidden_size"],
        sizes["num_attention_heads"],
        sizes["num_key_value_heads"],
        sizes["memaug_depth"],
        sizes["rope_theta"],
        use_full_memory=use_full_memory,
    )
    state = {
        name.removeprefix("state/"): weight
        for name, weight in recorded.items()
        if name.startswith("state/")
    }
    memaug.load_state_dict(translate_memaug(state, memaug, sizes["hidden_size"]))
    return memaug, recorded, sizes


def memaug_positions(recorded: dict[str, Tensor], variant: str) -> tuple[Tensor, Tensor]:
    """Return the positions of query and memory in one of `MEMAUG_VARIANTS`."""
    query_given, memory_given = MEMAUG_VARIANTS[variant]
    return (
        recorded["q_position_ids"] if query_given else torch.arange(len(recorded["x_q"])),
        recorded["k_position_ids"] if memory_given else torch.arange(len(recorded["x_kv"])),
    )


def image_repository(facts: dict[str, Any], newline: Tensor) -> MemoryRepository:
    """Build the repository of one of `IMAGE_CASES` from its sidecar."""
    num_images = facts["tiles"] if "grid_wh" in facts else facts.get("images", 1)
    index, channel = torch.arange(729 * num_images)[:, None], torch.arange(4)
    tokens = (((41 * index + 677 * channel + 3) % 2039 - 1019) / 1024).view(num_images, 729, 4)
    if "grid_wh" not in facts:
        return build_image_set_repository(tokens, newline)
    (columns, rows), (width, height) = facts["grid_wh"], facts["image_size_wh"]
    return build_tiled_image_repository(
        tokens, newline, (rows, columns), (height, width), max_tiles=9
    )


def kept_indices(repository: MemoryRepository, spatial: str = "uniform") -> list[Tensor]:
    """Return the kept tokens with the published ratios and a seed of 0."""
    config = replace(MemAugConfig(), spatial_forgetting=spatial)  # type: ignore[arg-type]
    return choose_kept_tokens(
        repository, torch.zeros(1, 4), config, torch.Generator().manual_seed(0)
    )
