"""The model card (README.md) of an exported model: how to use it, its data, settings and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hour import __version__
from lit_hour.config.schema import Config
from lit_hour.io.urls import is_url, redact

CARD = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
tags: [hour-llava, lit-hour]
---

# {name}

A video-language model for videos of up to hours, an [Hour-LLaVA](https://arxiv.org/abs/2506.05332).
Trained with lit_hour {version}; exported from checkpoint `{checkpoint}` of the run `{run}`.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
content = [{{"type": "video", "path": "VIDEO.mp4"}}, {{"type": "text", "text": "What happens?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True,
)
answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])
```

A prompt has one video (a file, which needs PyAV, or a list of frames), one image
(`"type": "image"`), several images, or only text. Each call of `generate` encodes the video anew.
The code is in this folder: read it before you trust it.

## Data

{data}

## Settings

| setting | value |
|---|---|
{settings}

## Scores

{scores}
"""
SETTINGS = (
    "video.sampling",
    "video.fps",
    "video.min_frames",
    "video.max_frames",
    "video.image_size",
    "image.max_grid",
    "image.max_tiles",
    "text.system_prompt",
    "text.mcq_format",
    "text.time_sentence",
    "text.memaug_question_scope",
    "text.max_tokens",
    "model.vision.name",
    "model.vision.weights",
    "model.vision.layer",
    "model.vision.grid",
    "model.memaug.num_layers",
    "model.memaug.min_frames",
    "model.memaug.max_kept_frames",
    "model.memaug.spatial_keep_ratio",
    "model.memaug.temporal_keep_ratio",
    "model.memaug.eval_spatial_forgetting",
    "model.memaug.temporal_forgetting",
    "model.llm.path",
    "model.llm.model_type",
    "training.init_from",
    "training.max_steps",
    "data.global_batch_size",
    "generation.max_new_tokens",
    "run.seed",
)


@dataclass(frozen=True)
class ReportedScore:
    """The result of an evaluation, and how it was obtained.

    Attributes:
        summary: benchmark, accuracy and number of questions, in one line.
        protocol: what affects the score, by name.
    """

    summary: str
    protocol: Mapping[str, Any]


def write_model_card(
    folder: Path, name: str, config: Config, checkpoint: Path, scores: Sequence[ReportedScore]
) -> None:
    """Write README.md.

    Args:
        folder: of the exported model.
        name: of the model.
        config: settings of the run.
        checkpoint: RUN/checkpoints/NAME.
        scores: of this checkpoint.
    """
    card = CARD.format(
        name=name,
        version=__version__,
        checkpoint=checkpoint.stem,
        run=checkpoint.absolute().parents[1].name,
        data=_describe_data(config),
        settings="\n".join(f"| `{key}` | {_value(config, key)} |" for key in SETTINGS),
        scores=_describe_scores(scores),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _describe_data(config: Config) -> str:
    lines = [
        f"- `{name}`: {_without_secrets(source.shards)}, weight {source.weight:g}"
        for name, source in sorted(config.data.sources.items())
    ]
    return "\n".join(lines) or "The settings of the run name no data; it may have been converted."


def _value(config: Config, key: str) -> str:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return f"`{json.dumps(_without_secrets(value) if isinstance(value, str) else value)}`"


def _without_secrets(location: str) -> str:
    """Return a location without user and query if it is a URL: the card is for the public."""
    return redact(location) if is_url(location) else location


def _describe_scores(scores: Sequence[ReportedScore]) -> str:
    if not scores:
        return "This checkpoint has no report of `lit-hour evaluate`, so there are none to show."
    return "\n\n".join(
        f"**{score.summary}**\n\n<details><summary>protocol</summary>\n\n```json\n"
        f"{json.dumps(score.protocol, indent=1)}\n```\n\n</details>"
        for score in scores
    )
