import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from published import read
from small import CONFIG, frames
from torch import Tensor

from lit_hour.config.schema import VisionConfig
from lit_hour.errors import ConfigError
from lit_hour.model.vision_encoder import VisionEncoder, colours_of, pool_to_grid

SETTINGS = CONFIG.model.vision
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's colours


def encode(images: Tensor, settings: VisionConfig = SETTINGS) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return VisionEncoder(settings).eval()(images)


def write_tower(folder: Path, name: str, vision: dict[str, object]) -> str:
    """Make a tower of these sizes known to open_clip, and return its name."""
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 2, "layers": 1}
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(file)
    return name


def test_pooling_is_the_published_one(golden: Path) -> None:
    recorded, _ = read(golden, "spatial_pool")
    for tokens, expected in (
        (recorded["input"], recorded["output"]),
        (recorded["input"].double(), recorded["output_f64"]),
        (torch.arange(27 * 27).float().view(1, -1, 1), recorded["ramp_output"]),
    ):
        square = tokens.unflatten(1, (27, 27)).permute(0, 3, 1, 2)  # (frames, channels, 27, 27)
        torch.testing.assert_close(pool_to_grid(square, 8).flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("side", (4, 7, 8))
def test_a_smaller_square_is_not_stretched(side: int) -> None:
    tokens = torch.randn(2, 3, side, side)
    assert torch.equal(pool_to_grid(tokens, 8), tokens)


def test_chunks_change_nothing() -> None:
    images = frames(7).images
    whole = encode(images, replace(SETTINGS, chunk_frames=128))
    assert whole.shape == (7, 16, 96)
    for chunk_frames in (1, 3, 7):
        torch.testing.assert_close(encode(images, replace(SETTINGS, chunk_frames=chunk_frames)), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layer", "block"), ((-1, 1), (-2, 0), (0, 0), (1, 1)))
def test_tokens_are_those_behind_the_block_that_is_read(layer: int, block: int) -> None:
    """Against the whole tower: its own forward, looked at behind one block; without class token and final norm."""
    images = frames(2).images
    tokens = encode(images, replace(SETTINGS, layer=layer))
    torch.manual_seed(0)
    tower = open_clip.create_model(SETTINGS.name, load_weights=False, pretrained_text=False).visual.eval()
    seen: list[Tensor] = []
    tower.transformer.resblocks[block].register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    normalised = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)  # (2, 3, 64, 64)
    with torch.no_grad():
        tower(normalised)
    torch.testing.assert_close(tokens, seen[0][:, 1:], atol=1e-4, rtol=1e-4)


def test_a_tower_of_timm_is_read_the_same_way(tmp_path: Path) -> None:
    """The published tower is one of these, pooled by attention and read behind the last block but one."""
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    encoder = VisionEncoder(replace(SETTINGS, name=write_tower(tmp_path, "lit-hour-timm", vision), layer=-2, grid=10)).eval()
    whole = open_clip.create_model("lit-hour-timm", load_weights=False, pretrained_text=False).visual.eval()
    left_out = whole.load_state_dict(encoder.tower.state_dict(), strict=False).missing_keys
    assert {name.split(".")[1] for name in left_out} == {"blocks", "norm", "attn_pool"}
    seen: list[Tensor] = []
    whole.trunk.blocks[-2].register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        whole((images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1))
    tokens = encoder(images)
    torch.testing.assert_close(tokens, seen[0][:, 1:], atol=1e-4, rtol=1e-4)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("weights", ("", "webli", "some/file.safetensors"))
def test_the_published_tower_has_its_own_colours_wherever_its_weights_come_from(weights: str) -> None:
    halves = (0.5, 0.5, 0.5)
    assert colours_of(VisionConfig(weights=weights), torch.nn.Identity()) == (halves, halves)


def test_tokens_are_in_raster_order() -> None:
    """Only the token of the patch that changes is far from the others, before attention mixes them much."""
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    changed = images.clone()
    changed[:, :, 16:32, 48:] = 255  # row 1, column 3 of 4 x 4 patches
    distance = (encode(images) - encode(changed)).norm(dim=-1)[0]  # (16,)
    assert int(distance.argmax()) == 1 * 4 + 3


def test_a_grid_smaller_than_the_tower_is_pooled() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(replace(SETTINGS, grid=2))
    assert (encoder.tokens_per_frame, encoder.dim, encoder.size_pixels) == (4, 96, 64)
    tokens = encode(frames(3).images, replace(SETTINGS, grid=2))
    fine = encode(frames(3).images).unflatten(1, (4, 4))  # (3, 4, 4, 96)
    quarters = fine.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean(dim=(2, 4))  # (3, 2, 2, 96)
    torch.testing.assert_close(tokens, quarters.flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_layers_behind_the_one_that_is_read_are_dropped() -> None:
    last, first = VisionEncoder(SETTINGS), VisionEncoder(replace(SETTINGS, layer=-2))
    assert sum(map(torch.numel, first.parameters())) < 0.7 * sum(map(torch.numel, last.parameters()))


@pytest.mark.parametrize(
    ("settings", "named"),
    (
        (replace(SETTINGS, name="ViT-nonsense"), "model.vision.name='ViT-nonsense'"),
        (replace(SETTINGS, layer=2), "model.vision.layer=2"),
        (replace(SETTINGS, layer=-3), "model.vision.layer=-3"),
        (replace(SETTINGS, weights="no/such/file.pt"), "model.vision.weights='no/such/file.pt'"),
    ),
)
def test_a_wrong_setting_is_named(settings: VisionConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        VisionEncoder(settings)


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    (
        ("lit-hour-convolutions", {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "no layers of patch tokens"),
        ("lit-hour-oblong", {"layers": 1, "width": 64, "image_size": [32, 16]}, "32 x 16 pixels"),
    ),
)
def test_a_tower_that_gives_no_square_of_tokens_is_refused(
    tmp_path: Path, name: str, sizes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        VisionEncoder(replace(SETTINGS, name=write_tower(tmp_path, name, sizes)))


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = open_clip.create_model(SETTINGS.name, load_weights=False, pretrained_text=False)
    file = tmp_path / "tower.pt"
    torch.save(whole.state_dict(), file)
    encoder = VisionEncoder(replace(SETTINGS, weights=str(file)))
    first_layer = "conv1.weight"
    assert torch.equal(encoder.tower.get_parameter(first_layer), whole.visual.get_parameter(first_layer))
