"""The settings of `python -m lit_hour serve`, a section of the group serving: what a stranger may send, and how much of it.

The settings of answering, one group of the schema: how memories of videos are kept, and the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class ServerConfig:
    """Limits of the server; none of them changes an answer."""

    max_upload_mb: int = field(4000, "largest video file that is taken", unit="MB", ge=1)
    max_video_seconds: float = field(6 * 3600.0, "longest video that is taken", unit="s", gt=0)
    max_frame_megapixels: float = field(
        16.0, "largest frame of a video that is taken: 4K has 8.3", unit="MP", gt=0
    )
    max_videos: int = field(
        32,
        "videos that are kept; one more takes the place of the one that was asked about least recently",
        ge=1,
    )
    max_concurrent_uploads: int = field(
        4, "videos that are received at the same time; one more is answered 429", ge=1
    )
    upload_folder: str = field(
        "", "where uploads are kept while the server runs; empty: the system's temporary folder"
    )
    upload_idle_seconds: float = field(
        30.0, "an upload of which next to nothing comes for so long is given up", unit="s", gt=0
    )
    max_concurrent_requests: int = field(
        4, "questions that are answered in turn, a token each", ge=1
    )
    max_queue_length: int = field(
        32, "questions that may wait for their turn; one more is answered 429", ge=0
    )
    check_timeout_seconds: float = field(
        20.0, "how long the check of an upload may take", unit="s", gt=0
    )
    decode_timeout_seconds: float = field(
        3600.0,
        "how long the frames of a video may be waited for in all, encoding apart",
        unit="s",
        gt=0,
    )
    decode_ram_gb: float = field(
        4.0,
        "memory that the process that decodes may take, threads and buffers of the decoder included",
        unit="GB",
        gt=0,
    )
    allowed_hosts: str = field(
        "",
        "names by which browsers may ask for this server besides localhost and its address, with commas between, such as"
        " that of a proxy before it",
    )


# ruff: noqa: RUF009  (`field` makes a new dataclass field at each call; nothing is shared)


@dataclass(frozen=True)
class ServingConfig:
    """How a trained run answers: how the memories of videos are kept between questions, and what its server takes."""

    memory_precision: Literal["exact", "bf16", "int8"] = field(
        "exact",
        "numbers of a memory on disk; exact: as they were computed, so that a memory that comes back answers as before; int8:"
        " 8 bits and a scale for each token, a quarter of 32-bit numbers",
    )
    memory_cache_gb: float = field(
        8.0,
        "memories that are ready to be asked, all together; those that were not asked for longest go to disk",
        unit="GB",
        gt=0,
    )
    memory_folder: str = field("runs/memories", "folder on disk for the memories that do not fit")
    server: ServerConfig = field(ServerConfig, "answering over HTTP")
