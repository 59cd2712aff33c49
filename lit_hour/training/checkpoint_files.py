"""A checkpoint's content -> a file that is complete or absent, with the run's settings as YAML beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config
from lit_hour.errors import RunError, WeightsError
from lit_hour.weights import read_checkpoint

UNFINISHED = ".part"  # added to the name of a file that is being written


class RunCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has the disk take it, looks whether it can be read, then moves it there.

    A checkpoint is therefore complete or absent, and the one before stays until then.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save both files; the settings first, so that no checkpoint is ever without them.

        Raises:
            RunError: the disk is full, or takes no files for another reason. Nothing of this checkpoint is left then.
        """
        file = Path(path)
        settings = file.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_config(self._config, _unfinished(settings))
            with _unfinished(file).open("wb") as part:  # by its path torch would not tell why a write failed
                torch.save(checkpoint, part)
            step_of_checkpoint(_unfinished(file))
            for each in (settings, file):
                _wait_for_disk(_unfinished(each))
                os.replace(_unfinished(each), each)
            _wait_for_disk(file.parent)
        except (OSError, RuntimeError) as error:
            # torch reports a write that failed as a RuntimeError of its own, on top of what the disk said
            reason = error if isinstance(error, OSError) else error.__context__
            for each in (settings, file):
                _unfinished(each).unlink(missing_ok=True)
            if not isinstance(reason, OSError):
                raise
            raise RunError(_cannot_be_saved(file, reason)) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove both files."""
        super().remove_checkpoint(path)
        Path(path).with_suffix(".yaml").unlink(missing_ok=True)


def step_of_checkpoint(file: Path) -> int:
    """How many optimizer steps a checkpoint has behind it; its tensors are not read.

    Raises:
        WeightsError: the file is no whole checkpoint.
    """
    try:
        return int(read_checkpoint(file)["global_step"])
    except (OSError, KeyError) as error:  # a file that was cut is an OSError to torch
        raise WeightsError(f"{file} is damaged or no checkpoint: delete it, or choose another") from error


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what a run that died while it saved has left; no other may be saving there now. What was removed."""
    found = sorted(folder.glob(f"*{UNFINISHED}"))
    for file in found:
        file.unlink(missing_ok=True)  # another rank may have been faster
    return found


def _unfinished(file: Path) -> Path:
    return file.with_name(file.name + UNFINISHED)


def _wait_for_disk(path: Path) -> None:
    """Return when the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_be_saved(file: Path, reason: OSError) -> str:
    free = shutil.disk_usage(file.parent).free
    return (
        f"{file} could not be saved: {reason.strerror}; {free / 1e6:.1f} MB are free there. The checkpoint before it is whole:"
        " make room, or set run.folder to another disk and move the run there, and start again"
    )
