"""Validation on stored features shows frames that are read again from their source."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from lit_hour.data.datasets import load_visual
from lit_hour.data.features.source_frames import SourceFrames
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.errors import ShardError
from lit_hour.training.extract_features import extract_features
from lit_hour.types import Features, Frames
from tests.helpers.toy_run import ToyProject, TrainedRun

INDICES = [0, 2, 5]


@pytest.fixture
def validation(trained: TrainedRun, tmp_path: Path) -> Path:
    """The toy project's validation videos and shards, in a folder that a test may change."""
    return shutil.copytree(trained.project.yaml.parent / "world/validation", tmp_path / "val")


def read_all(toy: ToyProject, features: Shards, frames: Shards) -> None:
    """Compare frames that are read again with the frames of packed shards."""
    config = toy.config("none")
    source = SourceFrames([features], config)
    for entry in features.entries:
        visual, packed = (
            load_visual(shards.read(entry_of), config.video, config.image)
            for shards, entry_of in (
                (features, entry),
                (frames, next(one for one in frames.entries if one.key == entry.key)),
            )
        )
        assert isinstance(visual, Features) and isinstance(packed, Frames)
        found = source.read(entry.key, visual, INDICES)
        torch.testing.assert_close(found.timestamps, visual.timestamps[INDICES])
        difference = (found.images.int() - packed.images[INDICES].int()).abs().float()
        assert difference.mean() < 3  # a video file is read without JPEG's losses
    with pytest.raises(ShardError, match="No source has features of other"):
        source.read("other", visual, INDICES)


def test_frames_of_features_are_read_again_from_packed_shards(
    trained: TrainedRun, validation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    extract_features("val/shards", Path("features"), run=trained.run.path.absolute())
    monkeypatch.chdir("/")  # the source is recorded by its absolute path
    features = open_shards(tmp_path / "features")
    read_all(trained.project, features, open_shards(validation / "shards"))


def test_frames_of_features_are_read_again_from_video_files(
    trained: TrainedRun, validation: Path, tmp_path: Path
) -> None:
    extract_features(
        str(validation / "videos"),
        tmp_path / "features",
        questions=validation / "questions.json",
        run=trained.run.path,
    )
    features = open_shards(tmp_path / "features")
    read_all(trained.project, features, open_shards(validation / "shards"))
    config = trained.project.config("none")
    entry, *_ = features.entries
    visual = load_visual(features.read(entry), config.video, config.image)
    assert isinstance(visual, Features)
    for file in (validation / "videos").glob("*.mp4"):
        file.unlink()
    with pytest.raises(ShardError, match=r"\.mp4 is missing, which the features of .* come from"):
        SourceFrames([features], config).read(entry.key, visual, INDICES)


@pytest.mark.slow
def test_validation_on_features_shows_frames_or_warns_once(
    trained: TrainedRun,
    validation: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = tmp_path / "features"
    extract_features(str(validation / "shards"), target, run=trained.run.path)
    words = (
        f"training.init_from={trained.run.path}",
        "training.learning_rate.vision=0",
        f"data.val_sources.world.shards={target}",
        "training.logger=csv",
        "training.num_val_images=2",
        "training.max_steps=2",
        "training.val_every_n_steps=1",
    )
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        run = trained.project.fit("feature-plots", *words).run
        assert len(list(run.metrics.glob("images/val/answers/*/*.png"))) == 4
        assert not caplog.records
        shutil.rmtree(validation / "shards")
        run = trained.project.fit("features-alone", *words).run
        assert not list(run.metrics.glob("images/val/answers/*/*.png"))
        (warning,) = (record.getMessage() for record in caplog.records)
        assert f"{validation}/shards contains no shards" in warning
        caplog.clear()
        record = json.loads((target / "features.json").read_text())
        del record["origin"]  # as older versions wrote it
        (target / "features.json").write_text(json.dumps(record))
        trained.project.fit("old-features", *words)
        (warning,) = (record.getMessage() for record in caplog.records)
        assert "does not record where the frames are. Run the same" in warning
