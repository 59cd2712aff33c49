"""Check that the optional packages of a run's settings are installed, before it starts."""

from __future__ import annotations

from importlib.util import find_spec

from lit_hour.config.training import TrainingConfig
from lit_hour.errors import ConfigError

# setting and value: the package, the extra that installs it, and other values
PACKAGES = {
    ("logger", "wandb"): ("wandb", "wandb", "tensorboard or csv"),
    ("optimizer", "adamw_8bit"): ("torchao", "quantized", "adamw"),
}


def check_optional_packages(training: TrainingConfig) -> None:
    """Check the packages that the logger and the optimizer need; nothing is imported.

    Raises:
        ConfigError: one of them is not installed.
    """
    for (setting, value), (package, extra, others) in PACKAGES.items():
        if getattr(training, setting) == value and find_spec(package) is None:
            raise ConfigError(
                f"training.{setting}={value} needs the package {package}, which is not installed."
                f" Run pip install 'lit_hour[{extra}]', or set training.{setting}={others}."
            )
