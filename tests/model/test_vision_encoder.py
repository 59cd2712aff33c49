import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError, InputError, WeightsError
from lit_hour.model.vision_encoder import VisionEncoder, check_weights, color_mean_std
from tests.model.published_model import read
from tests.model.toy_model import CONFIG, frames

SETTINGS = replace(CONFIG.model.vision, tanh_gelu=False)  # as open_clip, the reference here
HALVES = (0.5, 0.5, 0.5)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP


def encode(images: Tensor, settings: VisionConfig = SETTINGS) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return VisionEncoder(settings).eval().encode_images(images)


def write_tower(folder: Path, name: str, vision: dict[str, object]) -> str:
    """Make a tower of these sizes known to open_clip, and return its name."""
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 2, "layers": 1}
    file = folder / f"{name}.json"
    file.write_text(
        json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8"
    )
    open_clip.add_model_config(file)
    return name


def test_pool_equals_published(golden: Path) -> None:
    recorded, _ = read(golden, "spatial_pool")
    encoder = VisionEncoder(replace(SETTINGS, grid=8))
    for tokens, expected in (
        (recorded["input"], recorded["output"]),
        (recorded["input"].double(), recorded["output_f64"]),
        (torch.arange(27 * 27).float().view(1, -1, 1), recorded["ramp_output"]),
    ):
        torch.testing.assert_close(encoder.pool(tokens), expected, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("num_tokens", (16, 49, 50, 64))
def test_pool_keeps_tokens_that_fit_the_grid(num_tokens: int) -> None:
    tokens = torch.randn(2, num_tokens, 3)
    assert torch.equal(VisionEncoder(replace(SETTINGS, grid=8)).pool(tokens), tokens)


def test_pool_refuses_a_number_of_tokens_that_is_not_a_square() -> None:
    with pytest.raises(
        InputError, match="728 tokens per frame are not a square and cannot be pooled to 8 x 8"
    ):
        VisionEncoder(replace(SETTINGS, grid=8)).pool(torch.zeros(2, 728, 3))


def test_encode_images_does_not_depend_on_the_chunk_size() -> None:
    images = frames(7).images
    whole = encode(images, replace(SETTINGS, encode_batch_size=128))
    assert whole.shape == (7, 16, 96)
    for chunk_frames in (1, 3, 7):
        torch.testing.assert_close(
            encode(images, replace(SETTINGS, encode_batch_size=chunk_frames)),
            whole,
            atol=1e-5,
            rtol=1e-5,
        )


def test_tower_encodes_one_chunk_at_a_time() -> None:
    encoder = VisionEncoder(replace(SETTINGS, encode_batch_size=3))
    seen: list[int] = []
    encoder.tower.conv1.register_forward_pre_hook(
        lambda _module, inputs: seen.append(len(inputs[0]))
    )
    for pooled in (True, False):
        assert encoder.encode_images(frames(7).images, pooled=pooled).shape == (7, 16, 96)
    assert seen == [3, 3, 1] * 2


@pytest.mark.parametrize(("layer", "block"), ((-1, 1), (-2, 0), (0, 0), (1, 1)))
def test_tokens_equal_the_output_of_the_configured_block(layer: int, block: int) -> None:
    """Against the whole tower: its own forward, looked at behind one block; without class token and
    final norm."""
    images = frames(2).images
    tokens = encode(images, replace(SETTINGS, layer=layer))
    torch.manual_seed(0)
    tower = open_clip.create_model(
        SETTINGS.name, load_weights=False, pretrained_text=False
    ).visual.eval()
    seen: list[Tensor] = []
    tower.transformer.resblocks[block].register_forward_hook(
        lambda _block, _inputs, output: seen.append(output)
    )
    normalised = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )  # (2, 3, 64, 64)
    with torch.no_grad():
        tower(normalised)
    torch.testing.assert_close(tokens, seen[0][:, 1:], atol=1e-4, rtol=1e-4)


def test_timm_tower_tokens_equal_the_output_of_the_configured_block(tmp_path: Path) -> None:
    """The published tower is one of these, pooled by attention and read behind the last block but
    one."""
    vision = {
        "timm_model_name": "test_vit3",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    }
    encoder = VisionEncoder(
        replace(SETTINGS, name=write_tower(tmp_path, "lit-hour-timm", vision), layer=-2, grid=10)
    ).eval()
    whole = open_clip.create_model(
        "lit-hour-timm", load_weights=False, pretrained_text=False
    ).visual.eval()
    assert (encoder.mean, encoder.std) == (
        HALVES,
        HALVES,
    )  # as timm notes them for this tower
    left_out = whole.load_state_dict(encoder.tower.state_dict(), strict=False).missing_keys
    assert {name.split(".")[1] for name in left_out} == {"blocks", "norm", "attn_pool"}
    seen: list[Tensor] = []
    whole.trunk.blocks[-2].register_forward_hook(
        lambda _block, _inputs, output: seen.append(output)
    )
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        whole((images / 255 - 0.5) / 0.5)
    tokens = encoder.encode_images(images)
    torch.testing.assert_close(tokens, seen[0][:, 1:], atol=1e-4, rtol=1e-4)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("weights", ("", "webli", "some/file.safetensors"))
def test_published_tower_has_its_own_color_normalization(
    weights: str,
) -> None:
    assert color_mean_std(VisionConfig(weights=weights), torch.nn.Identity()) == (HALVES, HALVES)


def test_vision_tokens_are_in_raster_order() -> None:
    """Only the token of the patch that changes is far from the others, before attention mixes them
    much."""
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    changed = images.clone()
    changed[:, :, 16:32, 48:] = 255  # row 1, column 3 of 4 x 4 patches
    distance = (encode(images) - encode(changed)).norm(dim=-1)[0]  # (16,)
    assert int(distance.argmax()) == 1 * 4 + 3


def test_pool_to_half_the_side_is_the_mean_of_four_tokens() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(replace(SETTINGS, grid=2))
    assert (
        encoder.tokens_per_frame,
        encoder.tokens_per_image,
        encoder.dim,
        encoder.image_size,
    ) == (4, 16, 96, 64)
    tokens = encode(frames(3).images, replace(SETTINGS, grid=2, encode_batch_size=2))
    fine = encode(frames(3).images).unflatten(1, (4, 4))  # (3, 4, 4, 96)
    quarters = fine.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean(dim=(2, 4))  # (3, 2, 2, 96)
    torch.testing.assert_close(tokens, quarters.flatten(1, 2), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.eval().encode_images(frames(3).images, pooled=False),
            fine.flatten(1, 2),
            atol=1e-5,
            rtol=1e-5,
        )


def test_layers_after_the_configured_one_are_removed() -> None:
    last, first = VisionEncoder(SETTINGS), VisionEncoder(replace(SETTINGS, layer=-2))
    assert sum(map(torch.numel, first.parameters())) < 0.7 * sum(
        map(torch.numel, last.parameters())
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    (
        (replace(SETTINGS, name="ViT-nonsense"), "model.vision.name='ViT-nonsense'"),
        (replace(SETTINGS, layer=2), "model.vision.layer=2"),
        (replace(SETTINGS, layer=-3), "model.vision.layer=-3"),
    ),
)
def test_invalid_setting_raises_with_its_name(settings: VisionConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        VisionEncoder(settings)


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    (
        (
            "lit-hour-convolutions",
            {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32},
            "no patch tokens",
        ),
        ("lit-hour-oblong", {"layers": 1, "width": 64, "image_size": [32, 16]}, "32 x 16 pixels"),
    ),
)
def test_tower_without_a_square_of_tokens_raises(
    tmp_path: Path, name: str, sizes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        VisionEncoder(replace(SETTINGS, name=write_tower(tmp_path, name, sizes)))


def write_model(file: Path, name: str = SETTINGS.name) -> dict[str, Tensor]:
    """A file of a whole open_clip model with other random weights, and what its vision tower
    holds."""
    torch.manual_seed(1)
    whole = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    if file.suffix == ".safetensors":
        save_file(whole.state_dict(), file)
    else:
        torch.save(whole.state_dict(), file)
    return dict(whole.visual.state_dict())


@pytest.mark.parametrize("name", ("model.pt", "model.safetensors"))
def test_load_pretrained_from_a_file(tmp_path: Path, name: str) -> None:
    saved = write_model(tmp_path / name)
    encoder = VisionEncoder(replace(SETTINGS, layer=-2))
    encoder.load_pretrained(str(tmp_path / name))
    state = encoder.tower.state_dict()
    assert state and all(torch.equal(weight, saved[name]) for name, weight in state.items())


def test_corrupt_and_foreign_weights_raise_and_change_nothing(tmp_path: Path) -> None:
    encoder = VisionEncoder(SETTINGS)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    for suffix in ("pt", "safetensors"):
        whole = tmp_path / f"whole.{suffix}"
        write_model(whole)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(WeightsError, match=cut.name):
            encoder.load_pretrained(str(cut))
        foreign = tmp_path / f"foreign.{suffix}"
        write_model(foreign, "lit-hour-wide")
        with pytest.raises(WeightsError, match=f"{foreign.name}' does not fit {SETTINGS.name}"):
            encoder.load_pretrained(str(foreign))
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "tags"), ((SETTINGS.name, "none"), (VisionConfig().name, "webli"))
)
def test_check_weights_raises_for_missing_weights(name: str, tags: str) -> None:
    with pytest.raises(
        ConfigError, match=f"model.vision.weights='no/such/file.pt' is neither .* has: {tags}"
    ):
        check_weights(name, "no/such/file.pt")


def test_check_weights_accepts_a_pretrained_tag_without_a_download() -> None:
    check_weights(VisionConfig().name, "webli")


def test_tower_is_trained_only_by_short_videos() -> None:
    encoder = VisionEncoder(replace(SETTINGS, max_trainable_frames=5, encode_batch_size=2))
    assert encoder.encode_images(frames(5).images).requires_grad
    encoder.encode_images(frames(5).images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    encoder.zero_grad()
    long = encoder.encode_images(frames(6).images)
    long.square().sum().backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any()
        for parameter in encoder.parameters()
    )
    torch.testing.assert_close(
        long[:5].detach(),
        encoder.encode_images(frames(6).images[:5]).detach(),
        atol=1e-5,
        rtol=1e-5,
    )
    assert not encoder.requires_grad_(False).encode_images(frames(6).images).requires_grad
    encoder.requires_grad_(True)
    with torch.no_grad():
        assert not encoder.encode_images(frames(5).images).requires_grad


def test_tower_built_on_the_meta_device_loads_weights(tmp_path: Path) -> None:
    write_model(tmp_path / "model.pt")
    settings = replace(SETTINGS, grid=2)
    with torch.device("meta"):
        laid_out = VisionEncoder(settings)
    assert {tensor.device.type for tensor in laid_out.state_dict().values()} == {"meta"}
    real = VisionEncoder(settings)
    for encoder in (laid_out, real):
        encoder.load_pretrained(str(tmp_path / "model.pt"))
    assert (laid_out.tokens_per_frame, laid_out.tokens_per_image, laid_out.dim) == (4, 16, 96)
    with torch.no_grad():
        assert torch.equal(
            laid_out.eval().encode_images(frames(2).images),
            real.eval().encode_images(frames(2).images),
        )


def test_published_tower_uses_tanh_gelu_by_default() -> None:
    with torch.device("meta"):
        whole = open_clip.create_model(
            VisionConfig().name, load_weights=False, pretrained_text=False, device="meta"
        )
        encoders = [VisionEncoder(VisionConfig(tanh_gelu=tanh_gelu)) for tanh_gelu in (True, False)]
    forms = [
        [module.approximate for module in tower.modules() if isinstance(module, torch.nn.GELU)]
        for tower in (whole.visual.trunk.blocks, *(encoder.tower for encoder in encoders))
    ]
    assert forms == [["none"] * 27, ["tanh"] * 26, ["none"] * 26]
    assert (encoders[0].tokens_per_frame, encoders[0].tokens_per_image, encoders[0].dim) == (
        64,
        729,
        1152,
    )
