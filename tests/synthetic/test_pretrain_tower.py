import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.model.vision_encoder import VisionEncoder, shipped_weights
from lit_hour.synthetic.labeled_frames import LabeledFrames
from lit_hour.synthetic.pretrain_tower import draw_frames, pretrain_tower
from lit_hour.types import IGNORE_INDEX
from tests import CONF

FILE = CONF / "experiment" / "pretrain_tower" / "tower.yaml"
CONFIG = load_config(FILE)
SMALL = tuple(
    f"pretrain_tower.{setting}"
    for setting in ("num_frames=240", "num_val_frames=120", "num_steps=40", "batch_size=32")
)
UNSEEN_SEED = 1 << 40  # beyond the stories of every seed of the command


def open_encoder(weights: str, config: Config = CONFIG) -> VisionEncoder:
    encoder = VisionEncoder(replace(config.model.vision, weights=weights))
    encoder.load_pretrained(weights)
    return encoder


def probe(encoder: VisionEncoder, frames: LabeledFrames, name: str, num_train: int) -> float:
    """Fit a linear readout of the mean token by least squares, and return its accuracy."""
    with torch.no_grad():
        tokens = encoder.encode_images(frames.images).mean(dim=1)  # (frames, dim)
    labels = frames.classes[name]  # (frames,)
    inputs = torch.cat([tokens, torch.ones(len(tokens), 1)], dim=1).double()

    def select(part: slice) -> tuple[Tensor, Tensor]:
        known = labels[part] != IGNORE_INDEX
        return inputs[part][known], labels[part][known]

    (seen, seen_labels), (unseen, unseen_labels) = (
        select(part) for part in (slice(num_train), slice(num_train, None))
    )
    targets = torch.nn.functional.one_hot(seen_labels, int(labels.max()) + 1).double()
    gram = seen.T @ seen + 1e-3 * torch.eye(seen.shape[1])  # (dim + 1, dim + 1)
    weights = torch.linalg.solve(gram, seen.T @ targets)  # (dim + 1, classes)
    return ((unseen @ weights).argmax(dim=1) == unseen_labels).float().mean().item()


def test_shipped_weights_tell_shape_color_and_background_of_unseen_frames() -> None:
    encoder = open_encoder("lit-hour-conv")
    assert shipped_weights("lit-hour-conv").stat().st_size < 1_000_000
    frames = draw_frames(CONFIG, encoder, 700, UNSEEN_SEED)
    least = {"shape": 0.85, "color": 0.97, "background": 0.97, "pattern": 0.97}
    for name, accuracy in least.items():
        assert probe(encoder, frames, name, num_train=500) > accuracy, name


def test_command_trains_anew_and_its_file_reads_more_than_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tower.safetensors"
    main(["pretrain-tower", str(out), "-c", str(FILE), *SMALL])
    report = json.loads(out.with_suffix(".figures.json").read_text(encoding="utf-8"))
    assert f"background:   {report['accuracy']['background']:.1%}" in capsys.readouterr().out
    assert report["accuracy"]["background"] > 0.3  # of twelve colors
    assert report["settings"]["num_steps"] == 40
    assert {str(weight.dtype) for weight in load_file(out).values()} == {"torch.float16"}
    trained = open_encoder(str(out))
    assert not torch.equal(
        trained.tower.trunk.stem.conv.weight,
        VisionEncoder(CONFIG.model.vision).tower.trunk.stem.conv.weight,
    )


def test_same_seed_makes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((0, 0, 1)):
        sizes = ("num_frames=12", "num_val_frames=6", "num_steps=2", "batch_size=4")
        settings = [f"pretrain_tower.{setting}" for setting in (*sizes, f"seed={seed}")]
        out = tmp_path / f"{number}.safetensors"
        pretrain_tower(load_config(FILE, settings), out)
        files.append(out.read_bytes())
    assert files[0] == files[1] != files[2]
