"""A server that all tests of reading share, with a model that babbles on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from tests.server.clips import clip
from tests.server.running import Running, running

SETTINGS = (
    "generation.max_new_tokens=12",
    "model.vision.encode_batch_size=2",
    "video.max_frames=40",
)


@pytest.fixture(scope="session")
def predictor(random_run: RunDir) -> VideoPredictor:
    return VideoPredictor.from_run(random_run.path, device="cpu", overrides=SETTINGS)


@pytest.fixture(scope="session")
def content() -> bytes:
    """A video of four seconds."""
    return clip()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    """A folder of videos that may be asked about, and beside it things that may not."""
    root = tmp_path_factory.mktemp("shelf")
    allowed = root / "allowed"
    (allowed / "deep er").mkdir(parents=True)
    for place in (root / "secret.mp4", allowed / "walk.mp4", allowed / "deep er/ö#1.mp4"):
        place.write_bytes(content)
    (allowed / "no video.mp4").write_text("no video")
    (allowed / "link.mp4").symlink_to(root / "secret.mp4")
    (allowed / "inner.mp4").symlink_to(allowed / "walk.mp4")
    (allowed / "out").symlink_to(root)
    (root / "allowed_not").mkdir()
    (root / "allowed_not/walk.mp4").write_bytes(content)
    return allowed


@pytest.fixture(scope="session")
def served(predictor: VideoPredictor, folder: Path) -> Iterator[Running]:
    with running(predictor, ServerConfig(max_videos=6), [folder]) as place:
        yield place


@pytest.fixture(scope="session")
def video(served: Running, folder: Path) -> str:
    """The id of a video that is remembered."""
    found = served.post("/v1/videos/open", (folder / "walk.mp4").as_uri()).json()["id"]
    assert served.remembered(found)["state"] == "remembered"
    return found
