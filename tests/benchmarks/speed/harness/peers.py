"""Import the other projects that `make benchmark` installs into an environment of their own."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import Distribution, PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "peers"
REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


def add_peers_to_path() -> None:
    """Append the peers' packages to `sys.path`, so that they never replace installed ones."""
    sys.path += [folder for folder in _site_packages() if folder not in sys.path]


def load_peer(package: str, module: str) -> ModuleType | None:
    """Import a module of another project; print the reason and return None if that fails.

    Args:
        package: name of the distribution.
        module: the module that is needed, such as `torchcodec.decoders`, which loads FFmpeg.
    """
    try:
        version(package)
        return importlib.import_module(module)
    except PackageNotFoundError:
        print(f"{package} is not installed and is left out. make benchmark installs it.")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        print(f"{package} cannot be loaded and is left out: {reason}")
        if package == "torchcodec":
            print("torchcodec needs FFmpeg's shared libraries: apt-get install ffmpeg")
    return None


def peer_versions() -> dict[str, str]:
    """Return the version of each project in requirements.txt; empty if it is missing."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    packages = [line.partition("==")[0] for line in lines if "==" in line]
    path = [*sys.path, *_site_packages()]
    versions = {}
    for package in packages:
        distribution = next(iter(Distribution.discover(name=package, path=path)), None)
        versions[package] = distribution.version if distribution else ""
    return versions


def _site_packages() -> list[str]:
    return [str(folder) for folder in FOLDER.glob("lib/python*/site-packages")]
