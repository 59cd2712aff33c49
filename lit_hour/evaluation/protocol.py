"""Describe how a model is evaluated: everything that affects a score."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lit_hour import __version__
from lit_hour.config.schema import Config
from lit_hour.evaluation.item import QuestionSet
from lit_hour.evaluation.report.report import describe_prompts
from lit_hour.inference.precision import precision_name, resolve_dtype
from lit_hour.io.hashing import hash_path

PACKAGES = ("torch", "lightning", "transformers", "open_clip_torch", "av")
FRAME_SETTINGS = (
    "sampling",
    "fps",
    "min_frames",
    "max_frames",
    "image_size",
    "frames",
    "on_decode_error",
    "keyframes_only",
)
TEXT_SETTINGS = (
    "system_prompt",
    "mcq_format",
    "memaug_question_scope",
    "loss_on_template",
    "time_sentence",
    "max_tokens",
    "subtitles",
    "max_subtitle_tokens",
)
FRAME_TIME_SETTINGS = ("frame_times", "frames_per_time")


def describe_protocol(config: Config, checkpoint: Path, device: str) -> dict[str, Any]:
    """Return the protocol for the report.

    Args:
        config: settings of the run with those of the evaluation over them.
        checkpoint: file or folder with the weights.
        device: type of the device, such as "cuda".
    """
    settings = dataclasses.asdict(config)
    has_times = config.text.frame_times != "off"  # answers of before go on without the keys
    text_settings = TEXT_SETTINGS + FRAME_TIME_SETTINGS * has_times
    return {
        "checkpoint": {"path": str(checkpoint), "SHA-256": hash_path(checkpoint)},
        "settings": {
            "file": str(checkpoint.with_suffix(".yaml")),
            "SHA-256": hash_path(checkpoint.with_suffix(".yaml")),
        },
        "frames": {name: settings["video"][name] for name in FRAME_SETTINGS},
        "memaug": dataclasses.asdict(config.model.memaug),
        "text": {name: settings["text"][name] for name in text_settings},
        "generation": {
            "scoring": config.evaluation.scoring,
            "decoding": "greedy",
            "max_new_tokens": config.generation.max_new_tokens,
            "batch_size": config.evaluation.batch_size,
            "subtitles": "with" if config.evaluation.subtitles else "without",
        },
        "compute": {
            "device": device,
            "precision": precision_name(resolve_dtype(config.serving.precision, device)),
        },
        "versions": {
            "lit_hour": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }


def with_questions(protocol: dict[str, Any], questions: QuestionSet) -> dict[str, Any]:
    """Return the protocol with the hashes of the question files and prompts.

    Responses in one folder must all have the same.
    """
    return {
        **protocol,
        "question files": dict(questions.files),
        "prompts": describe_prompts(questions.items)["digest"],
    }
