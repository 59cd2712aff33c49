"""Answers from a trained run: in Python, on the terminal, and as a base of the server.

`VideoPredictor` is imported on first use, since it needs torch. Start with `predictor.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_hour.inference.predictor import VideoPredictor

__all__ = ["VideoPredictor"]


def __getattr__(name: str) -> Any:
    if name == "VideoPredictor":
        from lit_hour.inference.predictor import VideoPredictor

        return VideoPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
