"""Made-up videos, their narrator behind a server, and one run that nothing disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.videomarathon.annotate import annotate
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import SETTINGS, FinishedRun, SyntheticVideos
from tests.videomarathon.narrator import Narrator


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> SyntheticVideos:
    """Two videos of two minutes, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("films")
    stories = {
        name: generate_story(seed, 120.0)
        for seed, name in enumerate(("garden.mp4", "of a week/monday.mp4"))
    }
    for name, story in stories.items():
        (folder / name).parent.mkdir(exist_ok=True)
        render_story(story, folder / name, 32, 1)
    return SyntheticVideos(folder, Narrator(stories))


@pytest.fixture(scope="session")
def finished(films: SyntheticVideos, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Both videos annotated without a disturbance; not to be changed."""
    out = tmp_path_factory.mktemp("finished")
    with ChatServer(films.narrator.answer) as server:
        totals = annotate(films.folder, out, [server.url], "narrator", SETTINGS)
    return FinishedRun(out, totals, server)


@pytest.fixture
def serve(films: SyntheticVideos) -> Iterator[Callable[..., ChatServer]]:
    """Starts a narrator that fails as told."""
    servers: list[ChatServer] = []

    def start(**how: object) -> ChatServer:
        server = ChatServer(films.narrator.answer, **how)  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.die()


@pytest.fixture
def settings() -> VideoMarathonConfig:
    """Settings for small videos and quick failures."""
    return SETTINGS


@pytest.fixture
def copied(finished: FinishedRun, tmp_path: Path) -> Path:
    """A folder of annotations to be changed."""
    return Path(shutil.copytree(finished.out, tmp_path / "copied"))
