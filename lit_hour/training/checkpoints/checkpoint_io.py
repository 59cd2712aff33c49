"""A checkpoint's content -> a file that is complete or absent, with the run's settings as YAML beside it.

Checkpoints of a sharded model: folders of pieces, written by all ranks together, complete or absent.

A folder is written as NAME.ckpt.part and then renamed. One that it replaces is called NAME.ckpt.replaced for a moment, in
which a crash may come: `mend` gives it its name back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config
from lit_hour.errors import RunError, WeightsError
from lit_hour.io.file_lock import locked
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.optimizer_state import (
    flattened,
    make_places,
    numbered,
    restore_groups,
    unflattened,
)
from lit_hour.weights.dcp_reader import META, is_sharded, open_sharded
from lit_hour.weights.name_map import EMBEDDING, OUTPUT_LAYER
from lit_hour.weights.reader import MODEL_PREFIX, read_checkpoint

UNFINISHED = ".part"  # added to the name of a file that is being written


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has the disk take it, looks whether it can be read, then moves it there.

    A checkpoint is therefore complete or absent, and the one before stays until then.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save both files; the settings first, so that no checkpoint is ever without them.

        Raises:
            RunError: the disk is full, or takes no files for another reason. Nothing of this checkpoint is left then.
        """
        file = Path(path)
        settings = file.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_config(self._config, unfinished(settings))
            with unfinished(file).open(
                "wb"
            ) as part:  # by its path torch would not tell why a write failed
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
        raise WeightsError(
            f"{place} is damaged or no checkpoint: delete it, or choose another"
        ) from error
    if is_sharded(place):
        open_sharded(place)  # looks whether each is there and as long as it says
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


OPTIMIZER_PREFIX = "optimizer."
REPLACED, REMOVED = ".replaced", ".removed"
FILE_BYTES = 2 * 2**30  # a rank's pieces are put together in memory, a file at a time


class ShardedCheckpointIO(AtomicCheckpointIO):
    """Checkpoints in one file, and what the folder of a sharded one needs where one process reads or removes it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save one file, in the place of a folder if there is one."""
        place = Path(path)
        if place.is_dir():
            place.rename(_beside(place, REPLACED))
        super().save_checkpoint(checkpoint, path, storage_options)
        remove(_beside(place, REPLACED))

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """What a checkpoint holds; a sharded one is put together, as if it had been saved by one process."""
        place = Path(path)
        if not is_sharded(place):
            return super().load_checkpoint(path, *arguments, **named)
        outlines, read = open_sharded(place)
        checkpoint = read_checkpoint(place)
        weights = {name: read(name) for name in outlines if name.startswith(MODEL_PREFIX)}
        if self._config.model.llm.tie_word_embeddings:
            weights[f"{MODEL_PREFIX}{OUTPUT_LAYER}"] = weights[f"{MODEL_PREFIX}{EMBEDDING}"]
        tensors = {
            name.removeprefix(OPTIMIZER_PREFIX): read(name)
            for name in outlines
            if name.startswith(OPTIMIZER_PREFIX)
        }
        (state,) = checkpoint["optimizer_states"]
        return {
            **checkpoint,
            "state_dict": weights,
            "optimizer_states": [numbered({**state, "state": unflattened(tensors)})],
        }

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint with its settings; a folder loses its name first, so that no half of it is ever taken for it."""
        place = Path(path)
        if place.is_dir():
            remove(place.rename(_beside(place, REMOVED)))
        super().remove_checkpoint(path)


def save_sharded(
    place: Path, checkpoint: dict[str, Any], config: Config, strategy: ParallelStrategy
) -> None:
    """Write a checkpoint as a folder, with its settings beside it; every rank writes its pieces, and all return together.

    Raises:
        RunError: a rank could not write its part; the checkpoint that was there before still is.
    """
    (state,) = checkpoint.pop("optimizer_states")
    tensors = checkpoint.pop("state_dict") | {
        f"{OPTIMIZER_PREFIX}{key}": each for key, each in flattened(state).items()
    }
    rest = {**checkpoint, "optimizer_states": [{"param_groups": state["param_groups"]}]}
    _on_first_rank(strategy, place, lambda: _begin(place))
    writer = HuggingFaceStorageWriter(
        str(unfinished(place)),
        fqn_to_index_mapping=_files_of(tensors, strategy.world_size),
        save_distributed=True,
    )
    try:
        dcp.save(tensors, storage_writer=writer)
    except CheckpointException as error:
        _on_first_rank(strategy, place, lambda: remove(unfinished(place)))
        raise cannot_be_saved(place, next(iter(error.failures.values()))[0]) from error
    _on_first_rank(strategy, place, lambda: _finish(place, rest, config))


def load_sharded(place: Path, model: HourLLaVA, optimizer: Optimizer) -> None:
    """Fill a sharded model and its optimizer from such a folder; each rank reads its own parts, however many there were.

    Raises:
        WeightsError: the folder is damaged, or of another optimizer.
    """
    outlines, _ = open_sharded(place)
    (state,) = read_checkpoint(place)["optimizer_states"]
    restore_groups(optimizer, state["param_groups"])
    wanted = {
        name.removeprefix(OPTIMIZER_PREFIX): each
        for name, each in outlines.items()
        if name.startswith(OPTIMIZER_PREFIX)
    }
    places = {
        f"{OPTIMIZER_PREFIX}{key}": each
        for key, each in make_places(model, optimizer, wanted).items()
    }
    weights = {f"{MODEL_PREFIX}{name}": weight for name, weight in model.state_dict().items()}
    places |= {
        name: weight for name, weight in weights.items() if name in outlines
    }  # one with two names is there once
    dcp.load(places, storage_reader=HuggingFaceStorageReader(str(place)))


def repair_checkpoint_dir(run: RunDir) -> list[Path]:
    """Finish what a crash in the middle of saving or removing has left undone. What was not saved to its end is removed."""
    if not run.checkpoints.is_dir():
        return []
    with locked(run.path):  # ranks start at once
        for replaced in run.checkpoints.glob(f"*{REPLACED}"):
            place = replaced.with_suffix("")
            if place.exists():
                remove(replaced)
            else:
                replaced.rename(place)
        for removed in run.checkpoints.glob(f"*{REMOVED}"):
            remove(removed)
        return remove_unfinished(run.checkpoints)


def _begin(place: Path) -> None:
    """An empty folder; what a crash has left there is removed."""
    remove(unfinished(place))
    unfinished(place).mkdir(parents=True)


def _finish(place: Path, rest: dict[str, Any], config: Config) -> None:
    """Write what is not sharded, have the disk take everything, look whether it can be read, then move it to its place."""
    part, settings, replaced = (
        unfinished(place),
        place.with_suffix(".yaml"),
        _beside(place, REPLACED),
    )
    try:
        with (part / META).open("wb") as file:
            torch.save(rest, file)
        save_config(config, unfinished(settings))
        step_of_checkpoint(part)
        for each in (*part.iterdir(), part, unfinished(settings)):
            wait_for_disk(each)
    except OSError:
        for each in (part, unfinished(settings)):
            remove(each)
        raise
    os.replace(unfinished(settings), settings)
    remove(replaced)
    if place.exists():
        place.rename(replaced)
    part.rename(place)
    wait_for_disk(place.parent)
    remove(replaced)


def _on_first_rank(strategy: ParallelStrategy, place: Path, act: Callable[[], None]) -> None:
    """Let the first rank do something; all wait for it, and fail with it."""
    failure: OSError | None = None
    if strategy.is_global_zero:
        try:
            act()
        except OSError as error:
            failure = error
    failure = strategy.broadcast(failure)
    if failure is not None:
        raise cannot_be_saved(place, failure) from failure


def _files_of(tensors: Mapping[str, Tensor], num_ranks: int) -> dict[str, int]:
    """Which of its files, counted from 1, each rank writes a tensor to."""
    file_of, num_bytes = {}, 0
    for name, tensor in tensors.items():
        num_bytes += tensor.nbytes // num_ranks
        file_of[name] = 1 + num_bytes // FILE_BYTES
    return file_of


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(f"{place.name}{ending}")
