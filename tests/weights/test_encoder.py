import re
from pathlib import Path

import pytest
import torch

from lit_hour.errors import ConfigError, RunError, WeightsError
from lit_hour.weights.pretrained import config_for_new_run, load_vision_encoder
from tests.helpers.toy_run import ToyProject, TrainedRun
from tests.weights.factories import TOWER_OVERRIDES, write_hour_llava


def test_encoder_of_run_has_checkpoint_weights(trained: TrainedRun) -> None:
    for name in ("best", "last"):
        file = trained.run.checkpoint(name)
        state = torch.load(file, weights_only=True)["state_dict"]
        encoder = load_vision_encoder(trained.config, file)
        assert encoder.state_dict().keys() == {
            key.removeprefix("model.vision.") for key in state if ".vision." in key
        }
        assert all(
            torch.equal(weight, state[f"model.vision.{key}"])
            for key, weight in encoder.state_dict().items()
        )


def test_encoder_of_settings_has_init_from_weights(toy: ToyProject, trained: TrainedRun) -> None:
    config = config_for_new_run(toy.config("next", f"training.init_from={trained.run.path}"))
    assert (
        load_vision_encoder(config).digest()
        == load_vision_encoder(trained.config, trained.run.checkpoint()).digest()
    )


def test_encoder_of_published_model(toy: ToyProject, tmp_path: Path) -> None:
    weights = write_hour_llava(tmp_path / "published")
    overrides = (*TOWER_OVERRIDES, "model.vision.layer=-2", "model.memaug.num_layers=2")
    config = config_for_new_run(
        toy.config("next", f"training.init_from={tmp_path}/published", *overrides)
    )
    encoder = load_vision_encoder(config)
    position = next(
        weight for name, weight in weights.items() if name.endswith("position_embedding.weight")
    )
    assert torch.equal(encoder.state_dict()["tower.trunk.pos_embed"][0], position.float())


def test_encoder_without_weights_is_refused(toy: ToyProject) -> None:
    with pytest.raises(
        ConfigError,
        match=r"name no weights for the vision encoder.* model\.vision\.weights or .*--run",
    ):
        load_vision_encoder(toy.config("none"))


def test_encoder_of_other_size_or_name_is_refused(toy: ToyProject, trained: TrainedRun) -> None:
    file = trained.run.checkpoint()
    with pytest.raises(
        ConfigError,
        match=r"video\.image_size=32 does not match lit-hour-tiny\. Set video\.image_size=64",
    ):
        load_vision_encoder(toy.config("none", "video.image_size=32"), file)
    other = toy.config("none", "model.vision.name=ViT-B-32", "video.image_size=224")
    with (
        torch.device("meta"),
        pytest.raises(
            WeightsError, match=rf"the vision encoder of {re.escape(str(file))} does not fit"
        ),
    ):
        load_vision_encoder(other, file)
    with pytest.raises(RunError, match="no checkpoint 'none'"):
        trained.run.checkpoint("none")
