"""Fixtures with frame shards and the features extracted from them."""

import json
import shutil
from pathlib import Path

import pytest

from lit_hour.data.packing.pack import pack
from lit_hour.training.extract_features import extract_features
from tests.helpers.toy_run import ToyProject, TrainedRun


@pytest.fixture(scope="session")
def frames(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of frames of the world's four videos, each of them twice: three shards."""
    folder, world = tmp_path_factory.mktemp("frames"), toy.yaml.parent / "world/train"
    records = json.loads((world / "questions.json").read_text())
    (folder / "videos").mkdir()
    twice = []
    for copy in ("a", "b"):
        for file in (world / "videos").glob("*.mp4"):
            shutil.copy2(file, folder / f"videos/{copy}_{file.name}")
        twice += [
            {**record, "id": f"{copy}{record['id']}", "video": f"{copy}_{record['video']}"}
            for record in records
        ]
    (folder / "questions.json").write_text(json.dumps(twice))
    config = toy.config("none", "pack.videos_per_shard=3")
    pack(folder / "videos", folder / "questions.json", folder / "shards", config.video, config.pack)
    return folder


@pytest.fixture(scope="session")
def features(frames: Path, trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features extracted by one process without a fault."""
    target = tmp_path_factory.mktemp("features") / "shards"
    extract_features(str(frames / "shards"), target, run=trained.run.path)
    return target
