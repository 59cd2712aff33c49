"""The settings of `python -m lit_hour annotate`, one group of the schema: what is asked of the teacher, and what is kept."""

# ruff: noqa: RUF009  (`field` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class ClientConfig:
    """How the model servers are used; none of it changes what is asked."""

    max_concurrent_requests: int = field(
        72,
        "requests in flight, over all servers: a few more than these are to have, as some are always between two",
        unit="requests",
        ge=1,
    )
    max_concurrent_videos: int = field(
        32,
        "videos that one process works on side by side, about half as many as requests: while some are read and described,"
        " questions about the others wait to be sent",
        unit="videos",
        ge=1,
    )
    max_concurrent_reads: int = field(
        2,
        "of these, videos whose frames are being read; more help where there are more cores",
        unit="videos",
        ge=1,
    )
    timeout_seconds: float = field(
        600.0, "how long a server may take for one answer", unit="s", gt=0
    )
    max_retries: int = field(
        10, "times that a request is sent again to servers that do not answer it", ge=0
    )
    backoff_seconds: float = field(
        1.0, "rest of a server that fails, doubled each time that it fails again", unit="s", gt=0
    )
    max_backoff_seconds: float = field(60.0, "longest rest of a server", unit="s", gt=0)
    prompt_price: float = field(
        0.0, "of a million tokens that are sent, for the cost that is shown", ge=0
    )
    completion_price: float = field(0.0, "of a million tokens that are answered", ge=0)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """In the currency of the prices."""
        return (prompt_tokens * self.prompt_price + answer_tokens * self.completion_price) / 1e6


@dataclass(frozen=True)
class FilterConfig:
    """Which questions are dropped."""

    max_length_ratio: float = field(
        1.8,
        "an answer so many times as long as every other option, or as short, gives itself away",
        ge=1,
    )
    dedup_threshold: float = field(
        0.8,
        "shared part of their words (Jaccard) from which on two questions are the same",
        ge=0.5,
        le=1,
    )
    blind_trials: int = field(
        5, "times that a question is asked without the video; 0: never", ge=0, le=100
    )
    max_blind_accuracy: float = field(
        0.5,
        "a question that is answered without the video in a larger share of the tries is dropped",
        ge=0,
        le=1,
    )
    blind_keep_ratio: float = field(
        0.0, "share of the questions answered without the video that is kept", ge=0, le=1
    )
    check_answers: bool = field(
        True, "ask whether the captions contradict an answer, and drop it if they do"
    )


@dataclass(frozen=True)
class VideoMarathonConfig:
    """Videos -> captions, events, a summary and questions, by a model that is asked for them."""

    clip_seconds: float = field(60.0, "of a clip with a caption of its own", unit="s", ge=1)
    fps: float = field(1.0, "frames of a clip that the teacher sees", unit="1/s", gt=0)
    image_size: int = field(384, "longer side of these frames", unit="pixels", ge=16)
    jpeg_quality: int = field(85, "their quality", ge=1, le=100)
    min_events: int = field(3, "a video with fewer events is not asked about", unit="events", ge=1)
    questions_per_task: int = field(
        3,
        "open-ended questions of each of the 22 tasks, and as many multiple-choice ones",
        unit="questions",
        ge=1,
    )
    temperature: float = field(0.7, "of the teacher's answers", ge=0, le=2)
    max_new_tokens: int = field(4096, "longest answer of the teacher", unit="tokens", ge=64)
    response_format: Literal["json_schema", "prompt"] = field(
        "json_schema",
        "how the teacher is told the form of an answer: by a JSON schema that the server enforces, or in words, for servers"
        " that cannot do that",
    )
    max_attempts: int = field(
        3, "times that the teacher is asked for an answer that can be used", ge=1
    )
    max_failed_videos: int = field(
        0, "videos that may fail before the run stops", unit="videos", ge=0
    )
    max_missing_videos: int = field(
        0, "videos of an imported question file that may be missing", unit="videos", ge=0
    )
    seed: int = field(0, "seed of the order of questions and options", ge=0)
    client: ClientConfig = field(ClientConfig, "how the model servers are used")
    filters: FilterConfig = field(FilterConfig, "which questions are dropped")
