"""The other projects that `make benchmark` has installed: within reach of an import, or why not."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import Distribution, PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "peers"
REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


def add_peers() -> None:
    """Let imports find the other projects, after everything else: what they bring besides never replaces what is there."""
    sys.path += [folder for folder in _folders() if folder not in sys.path]


def load_peer(package: str, module: str) -> ModuleType | None:
    """A module of another project; where it cannot be had, None, and a line says why.

    Args:
        module: the one that is needed: `torchcodec.decoders`, which finds FFmpeg, where `torchcodec` alone does not.
    """
    try:
        version(package)
        return importlib.import_module(module)
    except PackageNotFoundError:
        print(f"{package} is not installed and left out: make benchmark installs it")
    except (ImportError, OSError, RuntimeError) as error:
        hint = (
            "; it needs FFmpeg's shared libraries: apt-get install ffmpeg"
            if package == "torchcodec"
            else ""
        )
        print(
            f"{package} cannot be loaded and is left out{hint}: {str(error).strip().splitlines()[0]}"
        )
    return None


def peer_versions() -> dict[str, str]:
    """The version of each project of requirements.txt; empty for one that is not there."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    packages = [line.partition("==")[0] for line in lines if "==" in line]
    places = [*sys.path, *_folders()]
    found = {
        package: next(iter(Distribution.discover(name=package, path=places)), None)
        for package in packages
    }
    return {
        package: distribution.version if distribution else ""
        for package, distribution in found.items()
    }


def _folders() -> list[str]:
    return [str(folder) for folder in FOLDER.glob("lib/python*/site-packages")]
