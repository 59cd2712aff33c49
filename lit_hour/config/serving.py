"""Settings of inference with a trained run: cached video memories, and limits of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class ServerConfig:
    """Limits of `lit-hour serve`, and what clients may do; none of them changes an answer."""

    max_upload_mb: int = field(4000, "largest video file", unit="MB", ge=1)
    max_video_seconds: float = field(6 * 3600.0, "longest video", unit="s", gt=0)
    max_frame_megapixels: float = field(
        16.0, "largest frame of a video; 4K has 8.3", unit="MP", gt=0
    )
    max_request_mb: int = field(
        64, "largest request with its data URLs, and images behind its URLs", unit="MB", ge=1
    )
    max_videos: int = field(
        32, "videos to keep; a further one replaces the least recently used", ge=1
    )
    max_concurrent_uploads: int = field(
        4, "simultaneous uploads, and downloads; a further one is refused with status 429", ge=1
    )
    upload_folder: str = field(
        "",
        "folder of uploaded videos while the server runs; empty for the system's temporary folder",
    )
    upload_idle_seconds: float = field(
        30.0, "an upload that sends almost nothing for this long is aborted", unit="s", gt=0
    )
    max_concurrent_requests: int = field(
        8, "requests that generate at the same time, in one batch", ge=1
    )
    max_queue_length: int = field(
        32, "requests that may wait; a further one is refused with status 429", ge=0
    )
    max_wait_seconds: float = field(
        120.0,
        "expected time of all requests before a new one, from measured and queued tokens; above it"
        " the new one is refused with status 429",
        unit="s",
        gt=0,
    )
    check_timeout_seconds: float = field(20.0, "time limit for checking an upload", unit="s", gt=0)
    decode_timeout_seconds: float = field(
        3600.0,
        "time limit for decoding a video, without the time of encoding",
        unit="s",
        gt=0,
    )
    decode_ram_gb: float = field(
        4.0,
        "memory limit of the decoding process, with the threads and buffers of the decoder",
        unit="GB",
        gt=0,
    )
    allowed_hosts: str = field(
        "",
        "host names that browsers may use besides localhost and the server's address, separated by"
        " commas, such as the name of a proxy",
    )
    allow_origins: str = field(
        "",
        "origins whose pages may use the server (CORS), separated by commas, such as"
        " https://example.org; *, for all, needs a token",
    )
    allow_urls: bool = field(
        False, "whether clients may name media by http(s) URLs; only public addresses are read"
    )
    url_timeout_seconds: float = field(
        60.0, "time limit for reading a URL, with its redirects", unit="s", gt=0
    )


@dataclass(frozen=True)
class ServingConfig:
    """Precision, cache of video memories between questions, and limits of the server."""

    precision: Literal["auto", "fp32", "bf16"] = field(
        "auto",
        "precision of the weights and activations of ask, serve, evaluate and the lmms-eval plugin."
        " auto: bf16 on a GPU that computes in it, else fp32. Rotary tables, positions and times"
        " are float32 in each",
    )
    memory_precision: Literal["exact", "bf16", "int8"] = field(
        "exact",
        "precision of video memories on disk. exact: as computed, so that answers do not change;"
        " int8: 8-bit integers with a scale per token, a quarter of the size of float32",
    )
    memory_cache_gb: float = field(
        8.0,
        "RAM for video memories; the least recently used are moved to disk",
        unit="GB",
        gt=0,
    )
    memory_folder: str = field("runs/memories", "folder of the video memories on disk")
    kv_cache_gb: float = field(
        4.0,
        "memory for the KV caches of the answers that the server generates together; a further one"
        " waits. An hour and the 7B shapes take 0.5 GB in bf16",
        unit="GB",
        gt=0,
    )
    max_evidence_gb: float = field(
        16.0,
        "memory that evidence may take, beside the weights and the video memories; more is refused."
        " An hour with the 7B shapes takes up to 10 GB in bf16, 20 GB in float32",
        unit="GB",
        gt=0,
    )
    prefix_cache_gb: float = field(
        1.0,
        "memory for the KV caches and visual tokens of earlier turns, beside the weights and the"
        " video memories; used"
        " by ask and serve where the visual tokens are the same in each turn"
        " (text.memaug_question_scope=first, and text alone). 0 keeps none",
        unit="GB",
        ge=0,
    )
    server: ServerConfig = field(ServerConfig, "limits of the HTTP server")
