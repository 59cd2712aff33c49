"""Reading, converting and initializing from published weights and runs.

Open `convert.py` first (`lit-hour convert`). The names below are imported on first use, so that the
package itself does not import torch.
"""

from importlib import import_module  # noqa: TID251  (lazy re-exports of the modules below)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_hour.weights.pretrained import load_pretrained_weights, load_vision_encoder
    from lit_hour.weights.reader import StoredWeights, open_weights
    from lit_hour.weights.safetensors_writer import write_weights

__all__ = [
    "StoredWeights",
    "load_pretrained_weights",
    "load_vision_encoder",
    "open_weights",
    "write_weights",
]
_MODULES = {
    "StoredWeights": "reader",
    "load_pretrained_weights": "pretrained",
    "load_vision_encoder": "pretrained",
    "open_weights": "reader",
    "write_weights": "safetensors_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
