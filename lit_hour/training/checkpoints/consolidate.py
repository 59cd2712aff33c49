"""Turn a sharded checkpoint into one file that a Lightning Trainer of any strategy resumes.

Start at `consolidate`. The file is laid out with empty tensors and mapped into memory; then the
tensors are copied one at a time, so that a model larger than the memory passes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from lit_hour.config.load import config_from_dict, load_config, save_config
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.io.atomic import atomic_path
from lit_hour.training.checkpoints.checkpoint_io import step_of_checkpoint, unsharded_layout
from lit_hour.weights.dcp_reader import is_sharded, open_sharded
from lit_hour.weights.reader import CHECKPOINT, read_checkpoint

UNSHARDED: dict[str, Any] = {  # of `training`
    "strategy": "auto",
    "async_checkpoints": False,
    "replicas": 1,
    "cpu_offload": False,
}


@dataclass(frozen=True)
class ConsolidationReport:
    """A consolidated checkpoint: its file, step, number of stored tensors and size."""

    target: Path
    step: int
    num_tensors: int

    def to_text(self) -> str:
        """Format the report for the command line."""
        size = self.target.stat().st_size / 1e9
        return (
            f"{self.target}: step {self.step}, {self.num_tensors} tensors, {size:.2f} GB\n"
            f"Its settings, with training.strategy=auto: {self.target.with_suffix('.yaml')}\n"
            f"To resume: trainer.fit(module, datamodule=data, ckpt_path={str(self.target)!r})"
        )


def consolidate(source: Path, target: Path) -> ConsolidationReport:
    """Write a sharded checkpoint as one file, with its settings beside it.

    The file has the weights, the optimizer's state and the rest of the checkpoint. Its settings say
    `training.strategy=auto`, so that the module is not sharded again.

    Args:
        source: folder of the checkpoint; `.ckpt` may be left out.
        target: new file, ending in .ckpt.

    Raises:
        WeightsError: the source is not a complete sharded checkpoint, or the target exists.
    """
    folder = source if source.suffix == CHECKPOINT else source.with_name(source.name + CHECKPOINT)
    check_paths(folder, target)
    step = step_of_checkpoint(folder)  # checks that all shards are there
    outlines, read = open_sharded(folder)
    content = read_checkpoint(folder)
    config = _unsharded(load_config(folder.with_suffix(".yaml")))
    has_tied_output = config.model.llm.tie_word_embeddings
    _use_unsharded_settings(content)
    with FakeTensorMode():
        empty = {name: torch.empty(full.shape, dtype=full.dtype) for name, full in outlines.items()}
    names = unsharded_layout(content, {name: name for name in outlines}, has_tied_output)
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = target.with_suffix(".yaml")
    with atomic_path(settings) as settings_part, atomic_path(target) as part:
        save_config(config, settings_part)
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(unsharded_layout(content, empty, has_tied_output), part)
        with part.open("r+b") as stream:  # a full disk is an error here, and SIGBUS below
            os.posix_fallocate(stream.fileno(), 0, part.stat().st_size)
        with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
            mapped = torch.load(part, mmap=True, weights_only=True)
        for origin, tensor in _pairs(names, mapped):
            tensor.copy_(read(origin) if isinstance(origin, str) else origin)
    return ConsolidationReport(target, step, len(outlines))


def check_paths(folder: Path, target: Path) -> None:
    """Check the source and the target of a consolidation.

    Raises:
        WeightsError: the source is not a sharded checkpoint, or the target cannot be written.
    """
    if not is_sharded(folder):
        if folder.is_file():
            raise WeightsError(f"{folder} is one file already. Resume from it as it is.")
        raise WeightsError(
            f"{folder} is not the folder of a sharded checkpoint. Give RUN/checkpoints/NAME."
        )
    if target.suffix != CHECKPOINT:
        raise WeightsError(f"{target} must end in {CHECKPOINT}. Give another name.")
    for path in (target, target.with_suffix(".yaml")):
        if path.exists():
            raise WeightsError(f"{path} exists already. Give another name, or delete it.")


def _unsharded(config: Config) -> Config:
    return replace(config, training=replace(config.training, **UNSHARDED))


def _use_unsharded_settings(content: dict[str, Any]) -> None:
    """Have `load_from_checkpoint` build a module that is not sharded.

    Raises:
        ConfigError: the settings cannot be used, as `load_from_checkpoint` would find out.
    """
    settings = content["hyper_parameters"]["config"]
    settings["training"] |= UNSHARDED
    config_from_dict(settings, origin="the hyper-parameters of the checkpoint")


def _pairs(origins: Any, tree: Any) -> Iterator[tuple[str | Tensor, Tensor]]:
    """Yield each tensor of a nested checkpoint with what is in its place in a tree of this form."""
    if isinstance(tree, Tensor):
        yield origins, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _pairs(origins[key], value)
    elif isinstance(tree, list | tuple):
        for origin, value in zip(origins, tree, strict=True):
            yield from _pairs(origin, value)
