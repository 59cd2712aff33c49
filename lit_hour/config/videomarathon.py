"""Settings of `lit-hour annotate`: requests to the teacher model, and filters of its questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class ClientConfig:
    """Concurrency, retries and prices of the model servers; none changes a request."""

    max_concurrent_requests: int = field(
        72,
        "requests in flight over all servers; set a few more than the servers process at once,"
        " since some are always between two requests",
        unit="requests",
        ge=1,
    )
    max_concurrent_videos: int = field(
        32,
        "videos that a process works on at once, about half as many as requests: while some are"
        " read and described, questions about the others are ready to be sent",
        unit="videos",
        ge=1,
    )
    max_concurrent_reads: int = field(
        2,
        "videos whose frames are read at once; more help on more cores",
        unit="videos",
        ge=1,
    )
    timeout_seconds: float = field(600.0, "time limit for one answer", unit="s", gt=0)
    max_retries: int = field(
        10, "times that a request is repeated when servers do not answer", ge=0
    )
    backoff_seconds: float = field(
        1.0, "pause of a server after a failure, doubled after each further one", unit="s", gt=0
    )
    max_backoff_seconds: float = field(60.0, "longest pause of a server", unit="s", gt=0)
    prompt_price: float = field(
        0.0, "price of a million prompt tokens, for the cost that is shown", ge=0
    )
    completion_price: float = field(0.0, "price of a million generated tokens", ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost in the currency of the prices."""
        cost = prompt_tokens * self.prompt_price + completion_tokens * self.completion_price
        return cost / 1e6


@dataclass(frozen=True)
class FilterConfig:
    """Filters of the questions."""

    max_length_ratio: float = field(
        1.8,
        "a question is dropped if its answer is this many times as long, or as short, as every"
        " other option",
        ge=1,
    )
    dedup_threshold: float = field(
        0.8,
        "Jaccard similarity of their words from which on two questions count as duplicates",
        ge=0.5,
        le=1,
    )
    blind_trials: int = field(
        5, "times that a question is answered without the video; 0 disables this", ge=0, le=100
    )
    max_blind_accuracy: float = field(
        0.5,
        "a question is dropped if a larger share of the blind trials is correct",
        ge=0,
        le=1,
    )
    blind_keep_ratio: float = field(
        0.0, "share of the questions answered blindly that is kept nevertheless", ge=0, le=1
    )
    check_answers: bool = field(
        True, "drop a question if the teacher finds that the captions contradict its answer"
    )


@dataclass(frozen=True)
class DescriptionConfig:
    """Descriptions that are written to the question file beside the questions."""

    captions: bool = field(False, "the caption of each clip: what happens between two times")
    events: bool = field(False, "the events that begin in each clip, with their times")
    chapters: bool = field(False, "the chapters of each video, and its summary")


@dataclass(frozen=True)
class VideoMarathonConfig:
    """Captions, events, a summary and questions about videos, by a teacher model."""

    clip_seconds: float = field(60.0, "duration of a clip with its own caption", unit="s", ge=1)
    fps: float = field(1.0, "frames of a clip that the teacher gets", unit="1/s", gt=0)
    image_size: int = field(384, "longer side of these frames", unit="pixels", ge=16)
    jpeg_quality: int = field(85, "JPEG quality of these frames", ge=1, le=100)
    min_events: int = field(3, "videos with fewer events get no questions", unit="events", ge=1)
    questions_per_task: int = field(
        3,
        "open-ended questions of each of the 22 tasks, and as many multiple-choice ones",
        unit="questions",
        ge=1,
    )
    temperature: float = field(0.7, "sampling temperature of the teacher", ge=0, le=2)
    max_new_tokens: int = field(4096, "longest answer of the teacher", unit="tokens", ge=64)
    response_format: Literal["json_schema", "prompt"] = field(
        "json_schema",
        "how the teacher gets the format of an answer: as a JSON schema that the server enforces,"
        " or in the prompt, for servers without support for schemas",
    )
    max_attempts: int = field(
        3, "times that the teacher is asked for an answer until it is valid", ge=1
    )
    max_failed_videos: int = field(
        0, "videos that may fail before the command stops", unit="videos", ge=0
    )
    max_missing_videos: int = field(
        0, "videos of an imported question file that may be missing", unit="videos", ge=0
    )
    max_invalid_records: int = field(
        0, "records of an imported question file that may be invalid; each is listed", ge=0
    )
    seed: int = field(0, "seed of the order of questions and options", ge=0)
    client: ClientConfig = field(ClientConfig, "use of the model servers")
    filters: FilterConfig = field(FilterConfig, "which questions are dropped")
    descriptions: DescriptionConfig = field(
        DescriptionConfig, "captions, events and chapters as training material"
    )
