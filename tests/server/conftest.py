"""A server that all read-only tests share, with a model of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from tests.server.factories import make_clip
from tests.server.helpers import RunningServer, run_server

OVERRIDES = (
    "generation.max_new_tokens=12",
    "model.vision.encode_batch_size=2",
    "video.max_frames=40",
)


@pytest.fixture(scope="session")
def predictor(random_run: RunDir) -> VideoPredictor:
    return VideoPredictor.from_run(random_run.path, device="cpu", overrides=OVERRIDES)


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A video of four seconds."""
    return make_clip()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, clip: bytes) -> Path:
    """An allowed directory with videos and links, beside files that are not allowed."""
    root = tmp_path_factory.mktemp("videos")
    allowed = root / "allowed"
    (allowed / "deep er").mkdir(parents=True)
    for path in (root / "secret.mp4", allowed / "walk.mp4", allowed / "deep er/ö#1.mp4"):
        path.write_bytes(clip)
    (allowed / "no video.mp4").write_text("no video")
    (allowed / "link.mp4").symlink_to(root / "secret.mp4")
    (allowed / "inner.mp4").symlink_to(allowed / "walk.mp4")
    (allowed / "out").symlink_to(root)
    (root / "allowed_not").mkdir()
    (root / "allowed_not/walk.mp4").write_bytes(clip)
    return allowed


@pytest.fixture(scope="session")
def server(predictor: VideoPredictor, folder: Path) -> Iterator[RunningServer]:
    with run_server(predictor, ServerConfig(max_videos=6), [folder]) as server:
        yield server


@pytest.fixture(scope="session")
def video(server: RunningServer, folder: Path) -> str:
    """The id of a video that is ready."""
    opened = server.post("/v1/videos/open", (folder / "walk.mp4").as_uri()).json()["id"]
    assert server.wait_until_finished(opened)["status"] == "ready"
    return opened
