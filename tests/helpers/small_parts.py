"""The packages of the extra `small`: marks for tests of the real parts."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest

from lit_hour.io.packaged_weights import PACKAGED_WEIGHTS


def _missing_packages() -> list[str]:
    missing = []
    for name in ("gguf", *(weights.package for weights in PACKAGED_WEIGHTS.values())):
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


needs_small = pytest.mark.skipif(
    bool(_missing_packages()),
    reason=f"{', '.join(_missing_packages())}: not installed; pip install 'lit_hour[small]'",
)
