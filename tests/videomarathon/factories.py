"""Config, synthetic videos and a finished run for the tests of annotation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.videomarathon import ClientConfig, FilterConfig, VideoMarathonConfig
from lit_hour.videomarathon.aggregate import DatasetTotals
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.fake_teacher import FakeTeacher

NOWHERE = "http://127.0.0.1:1/v1"  # no server listens there
CONFIG = VideoMarathonConfig(
    image_size=32,
    client=ClientConfig(
        max_concurrent_requests=16,
        timeout_seconds=20.0,
        backoff_seconds=0.02,
        max_backoff_seconds=0.2,
    ),
    filters=FilterConfig(blind_trials=2),
)
PACK_OPTIONS = (
    "video.image_size=32",
    "video.min_frames=2",
    "video.max_frames=3",
    "pack.num_workers=1",
)


@dataclass(frozen=True)
class SyntheticVideos:
    """A folder of synthetic videos, and a teacher that knows their stories."""

    folder: Path
    teacher: FakeTeacher


@dataclass(frozen=True)
class FinishedRun:
    """A finished annotation, and the server that answered it."""

    out: Path
    totals: DatasetTotals
    server: ChatServer
