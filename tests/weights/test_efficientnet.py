"""EfficientNet-Lite0 from its package equals timm's with the same weights."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.io.packaged_weights import EFFICIENTNET_LITE0, find_packaged_weights
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights import efficientnet
from lit_hour.weights.efficientnet import open_efficientnet
from lit_hour.weights.hf_folder import open_tower
from tests.helpers.small_parts import needs_small

SETTINGS = VisionConfig(
    name=EFFICIENTNET_LITE0, weights=EFFICIENTNET_LITE0, layer=-1, grid=4, tanh_gelu=False
)
RENAMED = "_blocks.3._bn1.running_var", "vision.tower.trunk.blocks.2.0.bn2.running_var"


def meta_tensors(settings: VisionConfig = SETTINGS) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = VisionEncoder(settings).state_dict()
    return {f"vision.{name}": weight for name, weight in state.items()}


def make_state() -> dict[str, Tensor]:
    """Return random weights of timm's model, by the names of EfficientNet-PyTorch, in its order."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    names: list[str] = []
    block_names = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    parts = [("_conv_stem", "_bn0")]
    for number in range(16):
        expansion = ("_expand_conv", "_bn0") if number else ()
        parts.append(tuple(f"_blocks.{number}.{part}" for part in (*expansion, *block_names)))
    parts.append(("_conv_head", "_bn1"))
    for part in (part for block in parts for part in block):
        kinds = ["weight"]
        if "_bn" in part:
            kinds += ["bias", "running_mean", "running_var", "num_batches_tracked"]
        names += [f"{part}.{kind}" for kind in kinds]
    names += ["_fc.weight", "_fc.bias"]
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith(("running_mean", "running_var")) or "bn" in name:
            state[name] = torch.rand_like(weight.float()).to(weight.dtype) + 0.5
    return dict(zip(names, state.values(), strict=True))


def load(file: Path, monkeypatch: pytest.MonkeyPatch, settings: VisionConfig = SETTINGS) -> Tensor:
    """Load a file in place of the package's, and return features of random images."""
    monkeypatch.setattr(efficientnet, "find_packaged_weights", lambda name, setting: file)
    return features(settings)


def features(settings: VisionConfig) -> Tensor:
    opened = open_tower(settings, meta_tensors(settings))
    encoder = VisionEncoder(settings)
    assert encoder.state_dict().keys() == {
        name.removeprefix("vision.") for name in opened.weights.meta_tensors
    }
    encoder.load_state_dict(
        {name.removeprefix("vision."): weight for name, weight in opened.weights.tensors()}
    )
    with torch.no_grad():
        return encoder.encode_images(images(), pooled=False)


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8, generator=generator)


def timm_features(state: Mapping[str, Tensor]) -> Tensor:
    """Return the features of timm's model, with weights assigned in their order."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    with torch.no_grad():
        grid = model.forward_features((images().float() - 127) / 128)  # (3, 1280, 7, 7)
    return grid.flatten(2).transpose(1, 2)  # (3, 49, 1280)


def test_features_equal_those_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    torch.save(state, tmp_path / "tower.pth")
    found, expected = load(tmp_path / "tower.pth", monkeypatch), timm_features(state)
    assert found.shape == (3, 49, 1280) and expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)  # values up to 6


def test_earlier_layer_is_that_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer before the head convolution, which is then removed."""
    state = make_state()
    torch.save(state, tmp_path / "tower.pth")
    settings = VisionConfig(**{**vars(SETTINGS), "layer": -2})
    found = load(tmp_path / "tower.pth", monkeypatch, settings)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    with torch.no_grad():
        pixels = (images().float() - 127) / 128
        grid = model.blocks(model.bn1(model.conv_stem(pixels)))  # (3, 320, 7, 7)
    torch.testing.assert_close(found, grid.flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda state: state.pop(RENAMED[0]), f"missing: {RENAMED[1]}"),
        (lambda state: state.update(_fc2=torch.ones(1)), "unexpected: _fc2"),
        (
            lambda state: state.update({"_blocks.16._bn1.bias": torch.ones(1)}),
            "unexpected: _blocks.16._bn1.bias",
        ),
        (
            lambda state: state.update({RENAMED[0]: torch.ones(3)}),
            f"wrong shape: {RENAMED[1]} is (3,) and has to be (144,)",
        ),
    ),
)
def test_file_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object, message: str
) -> None:
    state = make_state()
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "tower.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "tower.pth", monkeypatch)
    assert message in str(caught.value) and "tower.pth" in str(caught.value)


@pytest.mark.parametrize("damage", ("empty", "junk", "truncated", "list"))
def test_damaged_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = tmp_path / "tower.pth"
    torch.save([1, 2] if damage == "list" else make_state(), file)
    if damage != "list":
        content = {"empty": b"", "junk": b"junk" * 99, "truncated": file.read_bytes()[:-999]}
        file.write_bytes(content[damage])
    with pytest.raises(WeightsError, match=r"tower\.pth is damaged or not a file of weights"):
        load(file, monkeypatch)


def test_file_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"_conv_stem.weight": Path("code")}, tmp_path / "tower.pth")
    with pytest.raises(WeightsError, match=r"tower\.pth is damaged or not a file of weights"):
        load(tmp_path / "tower.pth", monkeypatch)


def test_another_tower_is_refused_by_its_setting() -> None:
    settings = VisionConfig(name="lit-hour-tiny", weights=EFFICIENTNET_LITE0)
    with pytest.raises(ConfigError, match=r"Set model\.vision\.name=efficientnet-lite0"):
        open_efficientnet(settings, {})


def test_batch_norms_keep_their_statistics_in_training() -> None:
    """In a new encoder without a call of `train`, and after one."""
    encoder = VisionEncoder(SETTINGS)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    assert encoder.training and all(
        buffer.min() == buffer.max() == (1.0 if name.endswith("running_var") else 0.0)
        for name, buffer in before.items()
    )
    for _ in range(2):
        encoder.encode_images(images()).sum().backward()
        encoder.eval().train()
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


@needs_small
def test_package_has_the_weights_of_timms_model() -> None:
    file = find_packaged_weights(EFFICIENTNET_LITE0, "model.vision.weights")
    state = torch.load(file, weights_only=True)
    torch.testing.assert_close(features(SETTINGS), timm_features(state), atol=5e-5, rtol=1e-4)


@needs_small
def test_tokens_are_pooled_to_the_grid() -> None:
    encoder = VisionEncoder(SETTINGS)
    assert (encoder.image_size, encoder.dim) == (224, 1280)
    assert (encoder.tokens_per_image, encoder.tokens_per_frame) == (49, 16)
    assert encoder.mean == (127 / 255,) * 3 and encoder.std == (128 / 255,) * 3
