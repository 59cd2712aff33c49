"""The settings of `python -m lit_hour annotate`, one group of the schema: what is asked of the teacher, and what is kept."""

# ruff: noqa: RUF009  (`section` makes a new dataclass field at each call; nothing is shared)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import section, setting


@dataclass(frozen=True)
class ServingConfig:
    """How the model servers are used; none of it changes what is asked."""

    requests_at_once: int = setting(
        72,
        "requests in flight, over all servers: a few more than these are to have, as some are always between two",
        unit="requests",
        at_least=1,
    )
    videos_at_once: int = setting(
        32,
        "videos that one process works on side by side, about half as many as requests: while some are read and described,"
        " questions about the others wait to be sent",
        unit="videos",
        at_least=1,
    )
    videos_read_at_once: int = setting(
        2,
        "of these, videos whose frames are being read; more help where there are more cores",
        unit="videos",
        at_least=1,
    )
    timeout_seconds: float = setting(
        600.0, "how long a server may take for one answer", unit="s", above=0
    )
    max_retries: int = setting(
        10, "times that a request is sent again to servers that do not answer it", at_least=0
    )
    wait_seconds: float = setting(
        1.0, "rest of a server that fails, doubled each time that it fails again", unit="s", above=0
    )
    max_wait_seconds: float = setting(60.0, "longest rest of a server", unit="s", above=0)
    prompt_price: float = setting(
        0.0, "of a million tokens that are sent, for the cost that is shown", at_least=0
    )
    answer_price: float = setting(0.0, "of a million tokens that are answered", at_least=0)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """In the currency of the prices."""
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6


@dataclass(frozen=True)
class FilterConfig:
    """Which questions are dropped."""

    max_length_ratio: float = setting(
        1.8,
        "an answer so many times as long as every other option, or as short, gives itself away",
        at_least=1,
    )
    likeness: float = setting(
        0.8,
        "shared part of their words (Jaccard) from which on two questions are the same",
        at_least=0.5,
        at_most=1,
    )
    blind_tries: int = setting(
        5, "times that a question is asked without the video; 0: never", at_least=0, at_most=100
    )
    max_blind_share: float = setting(
        0.5,
        "a question that is answered without the video in a larger share of the tries is dropped",
        at_least=0,
        at_most=1,
    )
    keep_blind: float = setting(
        0.0, "share of the questions answered without the video that is kept", at_least=0, at_most=1
    )
    check_answers: bool = setting(
        True, "ask whether the captions contradict an answer, and drop it if they do"
    )


@dataclass(frozen=True)
class MarathonConfig:
    """Videos -> captions, events, a summary and questions, by a model that is asked for them."""

    clip_seconds: float = setting(60.0, "of a clip with a caption of its own", unit="s", at_least=1)
    frames_per_second: float = setting(
        1.0, "frames of a clip that the teacher sees", unit="1/s", above=0
    )
    size_pixels: int = setting(384, "longer side of these frames", unit="pixels", at_least=16)
    jpeg_quality: int = setting(85, "their quality", at_least=1, at_most=100)
    min_events: int = setting(
        3, "a video with fewer events is not asked about", unit="events", at_least=1
    )
    questions_per_task: int = setting(
        3,
        "open-ended questions of each of the 22 tasks, and as many multiple-choice ones",
        unit="questions",
        at_least=1,
    )
    temperature: float = setting(0.7, "of the teacher's answers", at_least=0, at_most=2)
    max_answer_tokens: int = setting(
        4096, "longest answer of the teacher", unit="tokens", at_least=64
    )
    answer_form: Literal["schema", "words"] = setting(
        "schema",
        "how the teacher is told the form of an answer: by a JSON schema that the server enforces, or in words, for servers"
        " that cannot do that",
    )
    max_attempts: int = setting(
        3, "times that the teacher is asked for an answer that can be used", at_least=1
    )
    max_failed: int = setting(
        0, "videos that may fail before the run stops", unit="videos", at_least=0
    )
    max_missing: int = setting(
        0, "videos of an imported question file that may be missing", unit="videos", at_least=0
    )
    seed: int = setting(0, "seed of the order of questions and options", at_least=0)
    serving: ServingConfig = section(ServingConfig, "how the model servers are used")
    filters: FilterConfig = section(FilterConfig, "which questions are dropped")
