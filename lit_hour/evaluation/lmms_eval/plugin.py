"""Entry point `lit_hour` of the group `lmms_eval.models` in pyproject.toml.

lmms-eval loads it at every start, whatever model it runs, so nothing heavy is imported here.
"""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MODULE = "lit_hour.evaluation.lmms_eval.model"


def manifest() -> ModelManifest:
    """Return where lmms-eval finds the model classes."""
    return ModelManifest(
        "lit_hour", simple_class_path=f"{MODULE}.LitHour", chat_class_path=f"{MODULE}.LitHourChat"
    )
