"""What lmms-eval is told of lit_hour. It loads this at each start, whatever model it runs: nothing heavy is imported."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MODELS = "lit_hour.evaluation.lmms_eval.model"


def manifest() -> ModelManifest:
    """The entry `lit_hour` of the group `lmms_eval.models` in pyproject.toml."""
    return ModelManifest(
        "lit_hour", simple_class_path=f"{MODELS}.LitHour", chat_class_path=f"{MODELS}.LitHourChat"
    )
