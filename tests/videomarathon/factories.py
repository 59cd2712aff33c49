"""What the tests of annotations share: small settings, videos whose stories are known, and a run that went through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.videomarathon import FilterConfig, MarathonConfig, ServingConfig
from lit_hour.videomarathon.aggregate import Totals
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.narrator import Narrator

SETTINGS = MarathonConfig(
    size_pixels=32,
    serving=ServingConfig(
        requests_at_once=16, timeout_seconds=1.0, wait_seconds=0.02, max_wait_seconds=0.2
    ),
    filters=FilterConfig(blind_tries=2),
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
