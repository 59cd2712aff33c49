"""Mapping of the fields in tars of other projects: a YAML file, `load_field_mapping`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_hour.config.fields import field
from lit_hour.config.introspect import describe_type, walk_schema
from lit_hour.config.load import read_yaml
from lit_hour.errors import ConfigError


@dataclass(frozen=True)
class FieldMapping:
    """Keys of the JSON member of a sample, and what its other members are.

    A key may lead into nested mappings: `meta.question`. The first of `conversations`, `questions`,
    `question` and `caption` that a sample has is used.
    """

    conversations: str = field("conversations", "key of a list of turns, as in LLaVA's format")
    questions: str = field("questions", "key of a list of mappings with a question each")
    question: str = field("question", "key of a question, in the JSON or in each of `questions`")
    answer: str = field("answer", "key of its answer")
    options: str = field("options", "key of its options, if it is multiple choice")
    caption: str = field("caption", "key of a caption; without it a .txt member is the caption")
    prompt: str = field("Describe what is shown.", "question that a caption answers")
    video: str = field("", "suffix of the video, such as left.mp4, if a sample has several")
    images: Literal["frames", "separate"] = field(
        "frames", "what several images of a sample are: frames of a video, or separate images"
    )
    timestamps: str = field(
        "timestamps_seconds",
        "key of the times of the frames, in seconds; else they are equidistant",
    )
    frames_per_second: float = field(1.0, "rate of frames without times", unit="1/s", gt=0)


def load_field_mapping(file: str) -> FieldMapping:
    """Load a YAML file of differences from the default mapping; no file for the default.

    Raises:
        ConfigError: the file is missing or not a YAML mapping, or has an unknown key or value.
    """
    if not file:
        return FieldMapping()
    settings = read_yaml(Path(file))
    known = [one.name for one in fields(FieldMapping)]
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"{file}: unknown key {key!r}. The keys are {', '.join(known)}.")
        if not isinstance(value, str):
            raise ConfigError(f"{file}: {key} must be one value, not {value!r}.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(FieldMapping), settings)
        mapping = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        (info,) = (info for info in walk_schema(FieldMapping) if info.name == key)
        raise ConfigError(
            f"{file}: {key}={settings[key]} must be {describe_type(info)}."
        ) from error
    assert isinstance(mapping, FieldMapping)
    if not mapping.frames_per_second > 0:
        raise ConfigError(
            f"{file}: frames_per_second={mapping.frames_per_second:g} must be above 0."
        )
    return mapping
