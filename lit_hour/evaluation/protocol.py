"""A run, its checkpoint and the settings in, how the model was asked out: all that decides a score."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lit_hour import __version__
from lit_hour.config.load import config_to_dict
from lit_hour.config.schema import Config
from lit_hour.evaluation.item import QuestionSet
from lit_hour.evaluation.report.report import describe_prompts
from lit_hour.io.hashing import digest

PACKAGES = ("torch", "lightning", "transformers", "open_clip_torch", "av")
FRAME_SETTINGS = (
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
    "time_instruction",
    "max_tokens",
)


def describe_protocol(config: Config, checkpoint: Path, device: str) -> dict[str, Any]:
    """What goes into the report.

    Args:
        config: the run's settings with those of the evaluation over them.
        checkpoint: the file or folder with the weights.
        device: where it is computed, such as "cuda".
    """
    settings = config_to_dict(config)
    return {
        "checkpoint": {"path": str(checkpoint), "SHA-256": digest(checkpoint)},
        "settings": {
            "file": str(checkpoint.with_suffix(".yaml")),
            "SHA-256": digest(checkpoint.with_suffix(".yaml")),
        },
        "frames": {name: settings["video"][name] for name in FRAME_SETTINGS},
        "memory": dataclasses.asdict(config.model.memaug),
        "text": {name: settings["text"][name] for name in TEXT_SETTINGS},
        "answers": {
            "scoring": config.evaluation.scoring,
            "decoding": "the likeliest token each time",
            "max_new_tokens": config.generation.max_new_tokens,
            "batch_size": config.evaluation.batch_size,
            "subtitles": "with" if config.evaluation.subtitles else "without",
        },
        "computing": {"device": device, "precision": config.training.precision},
        "versions": {
            "lit_hour": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }


def identify(protocol: dict[str, Any], questions: QuestionSet) -> dict[str, Any]:
    """The protocol with what is asked: answers may only lie beside each other where all of this is the same."""
    return {
        **protocol,
        "question files": dict(questions.files),
        "prompts": describe_prompts(questions.items)["digest"],
    }
