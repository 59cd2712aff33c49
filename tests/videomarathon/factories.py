"""What the tests of annotations share: small settings, videos whose stories are known, and a run that went through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.videomarathon import ClientConfig, FilterConfig, VideoMarathonConfig
from lit_hour.videomarathon.aggregate import Totals
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.narrator import Narrator

SETTINGS = VideoMarathonConfig(
    image_size=32,
    client=ClientConfig(
        max_concurrent_requests=16,
        timeout_seconds=1.0,
        backoff_seconds=0.02,
        max_backoff_seconds=0.2,
    ),
    filters=FilterConfig(blind_trials=2),
)


@dataclass(frozen=True)
class SyntheticVideos:
    """Videos and the stories that they tell; `narrator` knows them all."""

    folder: Path
    narrator: Narrator


@dataclass(frozen=True)
class FinishedRun:
    """A run that went through, and what the server saw of it."""

    out: Path
    totals: Totals
    server: ChatServer
