"""Compare the recorded tiny tower, and SigLIP of transformers, with the tower of open_clip."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from lit_hour.errors import WeightsError
from lit_hour.media.transforms import resize_image
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights.name_map import from_tower, is_unused, siglip_names_of, to_tower
from tests.helpers.siglip_tower import PIXELS, SIGLIP, SIZES, load_siglip

RECORDED_PREFIX = "state/vision_tower.vision_model."
# SHA-256 of the pixels as little-endian float32
RECORDED_PIXELS = "8f7878069f1026506b7c84b5355694e65fef0a2f09a0464bee8f8bfa4c24035b"


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "siglip_tiny.safetensors")


def recorded_weights(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(RECORDED_PREFIX): weight
        for name, weight in recorded.items()
        if name.startswith(RECORDED_PREFIX)
    }


def recorded_image(recorded: dict[str, Tensor]) -> Tensor:
    """Return the recorded image as a batch of frames, (1, 3, 384, 384) uint8."""
    return resize_image(Image.fromarray(recorded["image_uint8"].numpy()), 384)[None]


def relative_error(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).abs().max() / expected.abs().max())


def capture_pixels(encoder: VisionEncoder, images: Tensor) -> Tensor:
    captured: list[Tensor] = []
    encoder.tower.trunk.patch_embed.register_forward_pre_hook(
        lambda _module, inputs: captured.append(inputs[0])
    )
    encoder.encode_images(images)
    return captured[0]


def test_pixels_into_tower_equal_recorded_pixels(
    recorded: dict[str, Tensor],
) -> None:
    pixels = capture_pixels(VisionEncoder(SIGLIP), recorded_image(recorded))
    assert torch.equal(pixels[..., ::8, ::8], recorded["pixel_values_every_8th"])
    assert hashlib.sha256(pixels.numpy().astype("<f4").tobytes()).hexdigest() == RECORDED_PIXELS


def test_patch_tokens_equal_recorded_tokens(recorded: dict[str, Tensor]) -> None:
    encoder = load_siglip(VisionEncoder(SIGLIP), recorded_weights(recorded))
    with torch.no_grad():
        tokens = encoder.encode_images(recorded_image(recorded), pooled=False)
    assert tokens.shape == recorded["output"].shape == (1, 729, 24)
    assert relative_error(tokens, recorded["output"]) < 5e-6


def test_exact_gelu_deviates_from_recorded_tokens(recorded: dict[str, Tensor]) -> None:
    """Without the setting tanh_gelu the error is far above the tolerance."""
    encoder = load_siglip(
        VisionEncoder(replace(SIGLIP, tanh_gelu=False)), recorded_weights(recorded)
    )
    with torch.no_grad():
        assert (
            relative_error(
                encoder.encode_images(recorded_image(recorded), pooled=False), recorded["output"]
            )
            > 1e-4
        )


@pytest.fixture(scope="module")
def transformers_tower() -> SiglipVisionModel:
    torch.manual_seed(0)
    tower = SiglipVisionModel(SiglipVisionConfig(**SIZES, **PIXELS)).eval()
    with torch.no_grad():
        for parameter in tower.parameters():  # large enough for every weight and bias to matter
            parameter.normal_(std=0.5 if parameter.dim() == 1 else 0.1)
    return tower


def saved_weights(tower: SiglipVisionModel, folder: Path) -> dict[str, Tensor]:
    tower.save_pretrained(folder)
    return {
        name.removeprefix("vision_model."): weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }


@pytest.mark.parametrize("layer", (-2, -1, 0))
def test_transformers_and_open_clip_agree_at_each_layer(
    transformers_tower: SiglipVisionModel, tmp_path: Path, layer: int
) -> None:
    encoder = load_siglip(
        VisionEncoder(replace(SIGLIP, layer=layer)), saved_weights(transformers_tower, tmp_path)
    )
    images = torch.randint(0, 256, (2, 3, 384, 384), dtype=torch.uint8)
    with torch.no_grad():
        states = transformers_tower(
            pixel_values=(images / 255 - 0.5) / 0.5, output_hidden_states=True
        ).hidden_states
        tokens = encoder.encode_images(images, pooled=False)
    expected = states[layer + 1 if layer >= 0 else layer]
    assert relative_error(tokens, expected) < 1e-5


def test_siglip_weights_round_trip(transformers_tower: SiglipVisionModel, tmp_path: Path) -> None:
    """Weights that the tower lacks are exactly those that `is_unused` names."""
    theirs = saved_weights(transformers_tower, tmp_path)
    encoder = load_siglip(VisionEncoder(SIGLIP), theirs)
    back: dict[str, Tensor] = {}
    for name, weight in encoder.tower.state_dict().items():
        back |= from_tower(name, weight)
    for name, weight in back.items():
        assert torch.equal(weight, theirs[name]), name
    left = theirs.keys() - back.keys()
    assert left == {name for name in theirs if is_unused(name, num_layers=3)}
    assert {name.split(".")[0] for name in left} == {"encoder", "post_layernorm", "head"}
    assert all(name.startswith("encoder.layers.3.") for name in left if name.startswith("encoder"))


def test_recorded_tower_has_no_unknown_weights(recorded: dict[str, Tensor]) -> None:
    weights = recorded_weights(recorded)
    used = {
        part for name in VisionEncoder(SIGLIP).tower.state_dict() for part in siglip_names_of(name)
    }
    assert {name for name in weights if name not in used} == {
        name for name in weights if is_unused(name, 3)
    }


@pytest.mark.parametrize(
    "name",
    (
        "encoder.layers.2.mlp.fc1.weight",
        "embeddings.patch_embedding.bias",
        "encoder.layers.9.nonsense",
    ),
)
def test_is_unused_rejects_needed_and_unknown_names(name: str) -> None:
    assert not is_unused(name, num_layers=3)


@pytest.mark.parametrize(
    "name",
    ("transformer.resblocks.0.attn.in_proj_weight", "trunk.blocks.0.ls1.gamma", "trunk.cls_token"),
)
def test_siglip_names_of_refuses_other_towers(name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name}.*model.vision.name"):
        siglip_names_of(name)


def test_to_tower_refuses_parts_of_different_shapes() -> None:
    parts = [torch.zeros(24, 24), torch.zeros(24, 24), torch.zeros(12, 24)]
    with pytest.raises(WeightsError, match=r"layers\.1\.self_attn\.v_proj\.weight \(12, 24\)"):
        to_tower("trunk.blocks.1.attn.qkv.weight", parts)
