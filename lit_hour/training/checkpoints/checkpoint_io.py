"""Write and read checkpoints atomically, as one file or as the folder of a sharded model.

`AtomicCheckpointIO` is Lightning's plugin for one process; `write_sharded` and `load_sharded` are
the collective operations of a sharded run. The run's settings lie beside each checkpoint as YAML.

A sharded checkpoint is written to NAME.ckpt.unfinished and renamed. The folder that it replaces is
called NAME.ckpt.replaced in between; after a crash `repair_checkpoint_dir` restores its name.
"""

from __future__ import annotations

import filecmp
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.optim import Optimizer

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config
from lit_hour.errors import RunError, WeightsError
from lit_hour.io.atomic import flush, remove, remove_temp_files, shared_temp_path
from lit_hour.io.file_lock import dir_lock
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.optimizer_state import (
    allocate_state,
    flatten,
    index_by_number,
    restore_groups,
    unflatten,
)
from lit_hour.weights.dcp_reader import META, is_sharded, open_sharded
from lit_hour.weights.name_map import EMBEDDING
from lit_hour.weights.reader import MODEL_PREFIX, OUTPUT_LAYER, read_checkpoint

OPTIMIZER_PREFIX = "optimizer."
REPLACED, REMOVED = ".replaced", ".removed"  # appended to a checkpoint's name
FILE_BYTES = 2 * 2**30  # a rank collects its tensors in memory, one file at a time


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its path, flushes and verifies it, then renames it.

    A checkpoint is therefore complete or absent, and its predecessor stays until then. Sharded
    checkpoints can be loaded, replaced and removed as well. A checkpoint that equals the one
    written before it is a hard link to it.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._latest: Path | None = None  # checkpoint that was written before

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save the settings and the checkpoint; the settings appear first.

        Raises:
            RunError: the disk is full or refuses the files; nothing of this checkpoint is left.
        """
        file = Path(path)
        settings = file.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            file.rename(_with_suffix(file, REPLACED))
        try:
            save_config(self._config, shared_temp_path(settings))
            # torch hides the reason of a failed write if it opens the file itself.
            with shared_temp_path(file).open("wb") as stream:
                torch.save(checkpoint, stream)
            step_of_checkpoint(shared_temp_path(file))
            for target in (settings, file):
                flush(shared_temp_path(target))
            link_if_equal(shared_temp_path(file), self._latest)
            for target in (settings, file):
                os.replace(shared_temp_path(target), target)
                remove(shared_temp_path(target))  # rename(2) keeps a second link of the same file
            flush(file.parent)
            self._latest = file
        except (OSError, RuntimeError) as error:
            # torch raises a RuntimeError while it handles the OSError of a failed write.
            reason = error if isinstance(error, OSError) else error.__context__
            for target in (settings, file):
                remove(shared_temp_path(target))
            if not isinstance(reason, OSError):
                raise
            raise _save_error(file, reason) from error
        remove(_with_suffix(file, REPLACED))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; a sharded one is assembled as if one process had saved it."""
        folder = Path(path)
        if not is_sharded(folder):
            return super().load_checkpoint(path, *args, **kwargs)
        outlines, read = open_sharded(folder)
        tied = self._config.model.llm.tie_word_embeddings
        return unsharded_layout(
            read_checkpoint(folder), {name: read(name) for name in outlines}, tied
        )

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its settings; a folder is renamed first, to be gone at once."""
        file = Path(path)
        if file.is_dir():
            remove(file.rename(_with_suffix(file, REMOVED)))
        super().remove_checkpoint(path)
        file.with_suffix(".yaml").unlink(missing_ok=True)


def link_if_equal(file: Path, other: Path | None) -> None:
    """Replace a file by a hard link to an equal one, so that both take the disk once.

    Files of checkpoints are replaced and never changed, so one does not change with the other.
    A file system without hard links keeps the file.
    """
    if other is None or not other.is_file() or not filecmp.cmp(file, other, shallow=False):
        return
    link = shared_temp_path(file)
    remove(link)
    try:
        os.link(other, link)
    except OSError:
        return
    os.replace(link, file)


def step_of_checkpoint(path: Path) -> int:
    """Return the number of optimizer steps behind a checkpoint, without reading its tensors.

    Raises:
        WeightsError: the checkpoint is corrupt.
    """
    try:
        step = int(read_checkpoint(path)["global_step"])
    except (OSError, KeyError) as error:  # torch raises OSError for a truncated file
        raise WeightsError(
            f"{path} is corrupt or not a checkpoint. Delete it, or choose another."
        ) from error
    if is_sharded(path):
        open_sharded(path)  # checks that each file is there with its full length
    return step


def repair_checkpoint_dir(run: RunDir, is_rank_zero: bool = True) -> list[Path]:
    """Complete what a crash has interrupted while a checkpoint was replaced or removed.

    No process may be saving there now.

    Args:
        run: the run; all of its ranks call this at their start.
        is_rank_zero: whether this rank removes unfinished files, and reports them.

    Returns:
        Checkpoints that were not saved completely and are removed now.
    """
    if not run.checkpoints.is_dir():
        return []
    with dir_lock(run.path):  # all ranks start at the same time
        for replaced in run.checkpoints.glob(f"*{REPLACED}"):
            path = replaced.with_suffix("")
            if path.exists():
                remove(replaced)
            else:
                replaced.rename(path)
        for removed in run.checkpoints.glob(f"*{REMOVED}"):
            remove(removed)
        return remove_temp_files(run.checkpoints) if is_rank_zero else []


def unsharded_layout(
    content: Mapping[str, Any], leaves: Mapping[str, Any], has_tied_output: bool
) -> dict[str, Any]:
    """Return a sharded checkpoint in the layout of a checkpoint of a single process.

    Args:
        content: what is not sharded.
        leaves: by the name of each stored tensor, what takes its place.
        has_tied_output: the output layer shares the weights of the embedding, which are stored
            once, or left out (`training.save_weights`).
    """
    weights = {name: leaf for name, leaf in leaves.items() if name.startswith(MODEL_PREFIX)}
    if has_tied_output and f"{MODEL_PREFIX}{EMBEDDING}" in weights:
        weights[f"{MODEL_PREFIX}{OUTPUT_LAYER}"] = weights[f"{MODEL_PREFIX}{EMBEDDING}"]
    tensors = {
        name.removeprefix(OPTIMIZER_PREFIX): leaf
        for name, leaf in leaves.items()
        if name.startswith(OPTIMIZER_PREFIX)
    }
    (state,) = content["optimizer_states"]
    return {
        **content,
        "state_dict": weights,
        "optimizer_states": [index_by_number({**state, "state": unflatten(tensors)})],
    }


@dataclass(frozen=True)
class ShardedContent:
    """A checkpoint of a sharded run, split for its folder.

    Attributes:
        step: number of finished optimizer steps.
        tensors: this rank's shards of the weights and of the optimizer's state.
        rest: everything else, serialized; equal on all ranks.
    """

    step: int
    tensors: Mapping[str, Tensor]
    rest: bytes

    @classmethod
    def split(cls, checkpoint: dict[str, Any]) -> ShardedContent:
        """Split a checkpoint as Lightning collects it; nothing of `rest` can change afterwards."""
        content = dict(checkpoint)
        (state,) = content.pop("optimizer_states")
        tensors = content.pop("state_dict") | {
            f"{OPTIMIZER_PREFIX}{key}": tensor for key, tensor in flatten(state).items()
        }
        rest = {**content, "optimizer_states": [{"param_groups": state["param_groups"]}]}
        stream = io.BytesIO()
        torch.save(rest, stream)
        return cls(content["global_step"], tensors, stream.getvalue())


class FolderWriter(HuggingFaceStorageWriter):
    """Writes a checkpoint to a temporary folder, which rank zero completes and renames."""

    def __init__(self, path: Path, content: ShardedContent, config: Config) -> None:
        super().__init__(
            str(shared_temp_path(path)),
            fqn_to_index_mapping=_assign_files(
                content.tensors, dist.get_world_size() // config.training.replicas
            ),
            save_distributed=True,
        )
        self._target, self._rest, self._config = path, content.rest, config

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Remove what a crash has left. Called on rank zero, before any rank writes."""
        for left in shared_temp_path(self._target).iterdir():
            remove(left)
        return super().prepare_global_plan(plans)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Complete the folder. Called on rank zero, when all ranks have written their parts."""
        _finish_folder(self._target, self._rest, self._config)


def write_sharded(
    path: Path, content: ShardedContent, config: Config, group: dist.ProcessGroup | None = None
) -> None:
    """Write a checkpoint as a folder, with its settings beside it. All ranks call this together.

    Args:
        path: the folder.
        content: its content on this rank.
        config: the settings.
        group: the ranks' group; by default the default group.

    Raises:
        RunError: a rank could not write its part. The previous checkpoint of this name is kept.
    """
    try:
        writer = FolderWriter(path, content, config)
        dcp.save(dict(content.tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:
        if dist.get_rank() == 0:
            remove(shared_temp_path(path))
        raise _save_error(path, next(iter(error.failures.values()))[0]) from error


def load_sharded(path: Path, model: HourLLaVA, optimizer: Optimizer) -> None:
    """Fill a sharded model and its optimizer from a folder; each rank reads its own parts.

    Raises:
        WeightsError: the folder is corrupt, or belongs to another optimizer.
    """
    outlines, _ = open_sharded(path)
    (state,) = read_checkpoint(path)["optimizer_states"]
    restore_groups(optimizer, state["param_groups"])
    wanted = {
        name.removeprefix(OPTIMIZER_PREFIX): outline
        for name, outline in outlines.items()
        if name.startswith(OPTIMIZER_PREFIX)
    }
    targets = {
        f"{OPTIMIZER_PREFIX}{key}": tensor
        for key, tensor in allocate_state(model, optimizer, wanted).items()
    }
    weights = {f"{MODEL_PREFIX}{name}": weight for name, weight in model.state_dict().items()}
    targets |= {  # tied weights are stored once
        name: weight for name, weight in weights.items() if name in outlines
    }
    dcp.load(targets, storage_reader=HuggingFaceStorageReader(str(path)))


def _finish_folder(path: Path, rest: bytes, config: Config) -> None:
    """Write what is not sharded, flush and verify the folder, then give it its name."""
    part, replaced = shared_temp_path(path), _with_suffix(path, REPLACED)
    settings = path.with_suffix(".yaml")
    settings_part = shared_temp_path(settings)
    try:
        (part / META).write_bytes(rest)
        save_config(config, settings_part)
        step_of_checkpoint(part)
        for written in (*part.iterdir(), part, settings_part):
            flush(written)
    except OSError:
        for written in (part, settings_part):
            remove(written)
        raise
    os.replace(settings_part, settings)
    remove(replaced)
    if path.exists():
        path.rename(replaced)
    part.rename(path)
    flush(path.parent)
    remove(replaced)


def _assign_files(tensors: Mapping[str, Tensor], num_shards: int) -> dict[str, int]:
    """Return the number of the file, from 1, to which each rank writes its part of a tensor."""
    file_of, num_bytes = {}, 0
    for name, tensor in tensors.items():
        num_bytes += tensor.nbytes // num_shards
        file_of[name] = 1 + num_bytes // FILE_BYTES
    return file_of


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _save_error(path: Path, reason: BaseException) -> RunError:
    text = reason.strerror if isinstance(reason, OSError) else str(reason)
    free = shutil.disk_usage(path.parent).free
    return RunError(
        f"{path} could not be saved: {text}. {free / 1e6:.1f} MB are free there. The previous"
        " checkpoint is intact. Free some space, or set run.folder to another disk and move the run"
        " there, then start again"
    )
