"""Hour-long video-language modelling on PyTorch Lightning: Hour-LLaVA and VideoMarathon.

`from lit_hour import fit, load` trains a run and loads it; `api.py` describes both. They are
imported when used, so that `import lit_hour` takes no time.

Source: arXiv:2506.05332.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_hour.api import fit, load

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "load"]


def __getattr__(name: str) -> Any:
    """Import an entry point of `api.py` at its first use."""
    if name not in ("fit", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lit_hour import api

    return getattr(api, name)
