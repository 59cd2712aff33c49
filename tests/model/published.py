"""The published model as recorded: its weights through the converter, its inputs and outputs as our types."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

from lit_hour.config.model import VisionConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import MemoryAugmentation
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

WIDE_TOWER, WIDE_TOWER_PIXELS = (
    "lit-hour-siglip-wide",
    28,
)  # as wide as the published tower, for a projector of the same shape
BEFORE_SIGLIP = PUBLISHED_TOWER.removesuffix("vision_model.")


@register_model
def lit_hour_siglip_wide(pretrained: bool = False, **sizes: Any) -> VisionTransformer:
    """Two blocks over pictures of 2 x 2 patches."""
    return lit_hour_siglip(
        pretrained, img_size=28, embed_dim=1152, num_heads=8, depth=2, mlp_ratio=0.125, **sizes
    )


def read(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a recorded file, integers as int64, and what its sidecar says."""
    file = golden / f"{name}.safetensors"
    if not file.exists():
        pytest.skip(f"the large recording {name} is not beside the checkout")
    tensors = load_file(file)
    sidecar = json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))
    return {
        key: value.long() if value.dtype == torch.int32 else value for key, value in tensors.items()
    }, sidecar


def translate(state: Mapping[str, Tensor], model: HourLLaVA) -> dict[str, Tensor]:
    """Weights or gradients of the whole published model, as many as there are, under our names."""
    return _translate(state, model.state_dict(), model.llm.dim)


def translate_memory(
    state: Mapping[str, Tensor], memaug: MemoryAugmentation, dim: int
) -> dict[str, Tensor]:
    """Weights or gradients of the published MemAug alone, `dim` wide, under our names."""
    published = {PUBLISHED_MEMAUG + name: tensor for name, tensor in state.items()}
    ours = _translate(published, [MEMAUG + name for name in memaug.state_dict()], dim)
    return {name.removeprefix(MEMAUG): tensor for name, tensor in ours.items()}


def _translate(state: Mapping[str, Tensor], names: Iterable[str], dim: int) -> dict[str, Tensor]:
    """By the project's own names; everything that is there has to have a place."""
    language = [name for name in names if not name.startswith(TOWER)]
    pairs = [
        pair
        for pair in dict.fromkeys(map(weight_group, language))
        if set(pair.published) <= state.keys()
    ]
    assert {name for pair in pairs for name in pair.published} == state.keys()
    return {
        name: ours
        for pair in pairs
        for name, ours in convert_from_hf(
            pair, [state[each] for each in pair.published], dim
        ).items()
    }


def write_published(golden: Path, weights: str, folder: Path) -> None:
    """The recorded model ("full_tied" or "full_untied") in the Hugging Face layout: weights, config.json, tokenizer."""
    _, sidecar = read(golden, f"{weights}_state")
    folder.mkdir()
    shutil.copyfile(golden / f"{weights}_state.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sidecar["config.json"]), encoding="utf-8")
    train_byte_level_tokenizer([], 300).save_pretrained(str(folder))


def write_siglip(folder: Path) -> None:
    """A Hugging Face SigLIP with random weights, as wide as the published one."""
    torch.manual_seed(0)
    with torch.device("meta"):
        tower = {
            f"vision.{name}": weight
            for name, weight in VisionEncoder(VisionConfig(name=WIDE_TOWER)).state_dict().items()
        }
    weights = {
        name: 0.02 * torch.randn(outline.shape) for name, outline in hf_meta_tensors(tower).items()
    }
    folder.mkdir()
    save_file(
        {name.removeprefix(BEFORE_SIGLIP): weight for name, weight in weights.items()},
        folder / "model.safetensors",
    )


@cache
def published_model(golden: Path, weights: str) -> HourLLaVA:
    """Our model with the recorded weights ("full_tied" or "full_untied"), through the converter and as a run is opened."""
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
    """One recorded run of the whole model: what went in, as our batch, and what came out."""

    batch: Batch
    recorded: dict[str, Tensor]
    sidecar: dict[str, Any]


def read_case(golden: Path, name: str) -> Case:
    """A recorded run; as there, MemAug sees the text that has no label."""
    recorded, sidecar = read(golden, name)
    input_ids, labels, is_real = (
        recorded["input_ids"],
        recorded["labels"],
        recorded["attention_mask"].bool(),
    )
    videos = tuple(
        None if video == "dummy" else _features(golden, video) for video in sidecar["videos"]
    )
    batch = Batch(
        keys=tuple(sidecar["videos"]),
        visuals=videos,
        visual_of_text=tuple(range(len(videos))),
        input_ids=input_ids,
        labels=labels,
        question_mask=(labels == IGNORE_INDEX) & is_real & (input_ids != IMAGE_TOKEN_INDEX),
        attention_mask=is_real,
        questions=((),) * len(videos),
    )
    return Case(batch, recorded, sidecar)


@cache
def _features(golden: Path, name: str) -> Features:
    """A recorded video, which is stored as eight channels that are repeated and scaled."""
    stored, _ = read(golden, "full_features")
    channels = (
        stored[f"{name}/small"][..., stored["chan_index"]] * stored["chan_gain"]
    )  # (frames, 8, 8, vision_dim)
    return Features(
        channels.flatten(1, 2), torch.arange(len(channels)).float()
    )  # (frames, 64, vision_dim), (frames,)
