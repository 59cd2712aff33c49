"""Synthetic videos, a server that knows their stories, and a finished annotation of them."""

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
from tests.videomarathon.factories import CONFIG, FinishedRun, SyntheticVideos
from tests.videomarathon.fake_teacher import FakeTeacher


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> SyntheticVideos:
    """Two videos of two minutes, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("videos")
    stories = {
        name: generate_story(seed, 120.0)
        for seed, name in enumerate(("garden.mp4", "of a week/monday.mp4"))
    }
    for name, story in stories.items():
        (folder / name).parent.mkdir(exist_ok=True)
        render_story(story, folder / name, 32, 1)
    return SyntheticVideos(folder, FakeTeacher(stories))


@pytest.fixture(scope="session")
def finished_run(videos: SyntheticVideos, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Both videos annotated without faults. Read only."""
    out = tmp_path_factory.mktemp("finished")
    with ChatServer(videos.teacher.answer) as server:
        totals = annotate(videos.folder, out, [server.url], "teacher", CONFIG)
    return FinishedRun(out, totals, server)


@pytest.fixture
def serve(videos: SyntheticVideos) -> Iterator[Callable[..., ChatServer]]:
    """Start servers of the fake teacher; arguments as for `ChatServer`."""
    servers: list[ChatServer] = []

    def start(**options: object) -> ChatServer:
        server = ChatServer(videos.teacher.answer, **options)  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.die()


@pytest.fixture
def config() -> VideoMarathonConfig:
    """Settings for small videos and quick failures."""
    return CONFIG


@pytest.fixture
def copied_out(finished_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, for changes."""
    return Path(shutil.copytree(finished_run.out, tmp_path / "copied"))
