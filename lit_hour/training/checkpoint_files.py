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
from lit_hour.weight_pieces import is_sharded, open_pieces
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
            save_config(self._config, unfinished(settings))
            with unfinished(file).open("wb") as part:  # by its path torch would not tell why a write failed
                torch.save(checkpoint, part)
            step_of_checkpoint(unfinished(file))
            for each in (settings, file):
                wait_for_disk(unfinished(each))
                os.replace(unfinished(each), each)
            wait_for_disk(file.parent)
        except (OSError, RuntimeError) as error:
            # torch reports a write that failed as a RuntimeError of its own, on top of what the disk said
            reason = error if isinstance(error, OSError) else error.__context__
            for each in (settings, file):
                remove(unfinished(each))
            if not isinstance(reason, OSError):
                raise
            raise cannot_be_saved(file, reason) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove both files."""
        super().remove_checkpoint(path)
        Path(path).with_suffix(".yaml").unlink(missing_ok=True)


def step_of_checkpoint(place: Path) -> int:
    """How many optimizer steps a checkpoint has behind it; its tensors are not read.

    Raises:
        WeightsError: it is no whole checkpoint.
    """
    try:
        step = int(read_checkpoint(place)["global_step"])
    except (OSError, KeyError) as error:  # a file that was cut is an OSError to torch
        raise WeightsError(f"{place} is damaged or no checkpoint: delete it, or choose another") from error
    if is_sharded(place):
        open_pieces(place)  # looks whether each is there and as long as it says
    return step


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what a run that died while it saved has left; no other may be saving there now. What was removed."""
    found = sorted(folder.glob(f"*{UNFINISHED}"))
    for path in found:
        remove(path)
    return found


def unfinished(path: Path) -> Path:
    """Where a file or a folder lies until it is whole."""
    return path.with_name(path.name + UNFINISHED)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def wait_for_disk(path: Path) -> None:
    """Return when the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_be_saved(place: Path, reason: BaseException) -> RunError:
    """The error for a checkpoint that a disk did not take."""
    said = reason.strerror if isinstance(reason, OSError) else str(reason)
    free = shutil.disk_usage(place.parent).free
    return RunError(
        f"{place} could not be saved: {said}; {free / 1e6:.1f} MB are free there. The checkpoint before it is whole:"
        " make room, or set run.folder to another disk and move the run there, and start again"
    )
