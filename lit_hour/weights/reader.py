"""Lazy weight reader: names, shapes and dtypes first, each tensor on access.

Start at `open_weights`. Supported layouts: a folder with model.safetensors, or with
model.safetensors.index.json and its shards; one .safetensors file; a Lightning checkpoint of this
project (.ckpt), as one file or as the folder of a sharded run. Of a checkpoint only the model's
weights are used.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError, list_first
from lit_hour.weights.dcp_reader import META, meta_tensor, open_sharded
from lit_hour.weights.layer_names import group_layers

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SAFE, CHECKPOINT = ".safetensors", ".ckpt"
PICKLED = (".bin", ".pt", ".pth")
MODEL_PREFIX = "model."  # state-dict prefix of the model in a Lightning checkpoint
OUTPUT_LAYER = "llm.network.lm_head.weight"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredWeights:
    """Weights on disk, read lazily.

    Attributes:
        path: their origin, for messages.
        meta_tensors: name to tensor on the device "meta": shape and dtype without data.
        read: returns the tensor of a name, memory-mapped where the format allows it.
        absent: names that an index lists for a file that lacks them, and that file.
        stored_parts: returns the stored tensors from which the weight of a name is computed; None
            if each is a copy of one.
    """

    path: Path
    meta_tensors: Mapping[str, Tensor]
    read: Callable[[str], Tensor]
    absent: Mapping[str, Path] = field(default_factory=dict)
    stored_parts: Callable[[str], Sequence[Tensor]] | None = None

    def parts(self, name: str) -> Sequence[Tensor]:
        """Return the stored tensors that determine a weight, by default the weight itself.

        Unlike the result of a matrix product, they are the same bits on every machine.
        """
        return [self.read(name)] if self.stored_parts is None else self.stored_parts(name)

    @property
    def num_bytes(self) -> int:
        """Return the size of all tensors in bytes."""
        return sum(meta.nbytes for meta in self.meta_tensors.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, tensor); each tensor is read on access."""
        return ((name, self.read(name)) for name in self.meta_tensors)

    def subset(self, names: Collection[str]) -> StoredWeights:
        """Return the weights with these names, in the present order."""
        return replace(
            self,
            meta_tensors={name: meta for name, meta in self.meta_tensors.items() if name in names},
        )

    def renamed(self, rename: Callable[[str], str]) -> StoredWeights:
        """Return the same weights under other names."""
        name_of = {rename(name): name for name in self.meta_tensors}
        meta_tensors = {new: self.meta_tensors[name] for new, name in name_of.items()}
        return StoredWeights(self.path, meta_tensors, lambda new: self.read(name_of[new]))

    def merge(self, others: StoredWeights) -> StoredWeights:
        """Return the union of both; `others` wins where a name occurs twice."""

        def read(name: str) -> Tensor:
            return others.read(name) if name in others.meta_tensors else self.read(name)

        return StoredWeights(self.path, {**self.meta_tensors, **others.meta_tensors}, read)


def open_weights(path: Path) -> StoredWeights:
    """Open weights: read the headers, not the data.

    An index may be out of date as far as the model does not need it, as in transformers: it may
    lack tensors of its files, and `StoredWeights.absent` has those that it lists in vain.

    Raises:
        WeightsError: There are no weights, a file is missing, corrupt or in another format, or an
            index lists a tensor of one file for another.
    """
    if path.is_dir() and path.suffix != CHECKPOINT:
        return _open_files(path, *_files_in(path))
    if path.suffix == CHECKPOINT:
        return _open_checkpoint(path)
    if path.suffix in PICKLED:
        raise _pickled(path)
    if path.suffix != SAFE:
        raise WeightsError(
            f"{path} is not a readable weights file. Give a {SAFE} file or a folder of them."
        )
    return _open_files(path, [path], None)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Load a Lightning checkpoint with memory-mapped tensors, never unpickling code.

    Of the folder of a sharded checkpoint, load the part that is not sharded: step counts, but no
    weights and no optimizer state.

    Raises:
        WeightsError: The file is incomplete, is not a checkpoint, or would run code when unpickled.
    """
    try:
        return torch.load(
            file / META if file.is_dir() else file, map_location="cpu", mmap=True, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise WeightsError(
            f"{file} is corrupt or not a checkpoint. Delete it, or choose another."
        ) from error


def check_floating_point(stored: StoredWeights) -> None:
    """Reject integer weights: quantized weights are meaningless without their scales.

    Raises:
        WeightsError: A weight has an integer dtype; the message names the first.
    """
    for name, meta in stored.meta_tensors.items():
        if not meta.is_floating_point():
            kind = str(meta.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{stored.path}: {name} is stored as {kind}. Give weights that are not quantized."
            )


def check_listed(stored: StoredWeights, needed: Collection[str]) -> None:
    """Check that the files contain all needed weights that an index lists.

    Raises:
        WeightsError: The index lists a needed weight for a file that lacks it.
    """
    for name, file in stored.absent.items():
        if name in needed:
            raise WeightsError(
                f"{file} lacks {name}, which {INDEX_FILE} beside it lists for it. Download both"
                " again, from the same revision."
            )


def optional_weights(config: Config) -> Callable[[str], bool]:
    """Return a predicate for the weights that a file may lack: a tied output layer."""
    return lambda name: config.model.llm.tie_word_embeddings and name == OUTPUT_LAYER


def check_state_dict(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    origin: str,
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Check names and shapes of a state dict against a model.

    Args:
        expected: name to weight of the model; meta tensors will do.
        found: name to weight at hand; meta tensors will do.
        origin: names the weights at hand in the error.
        optional: tells which expected weights may be missing.

    Raises:
        WeightsError: A weight is missing, unexpected or of another shape. The message names all of
            them, equal layers in one line.
    """
    missing = [name for name in expected if name not in found and not optional(name)]
    unexpected = [name for name in found if name not in expected]
    wrong_shapes = {
        name: f" is {tuple(found[name].shape)} and has to be {tuple(weight.shape)}"
        for name, weight in expected.items()
        if name in found and found[name].shape != weight.shape
    }
    if missing or unexpected or wrong_shapes:
        problems = [
            *(f"missing: {line}" for line in group_layers(dict.fromkeys(missing, ""))),
            *(f"unexpected: {line}" for line in group_layers(dict.fromkeys(unexpected, ""))),
            *(f"wrong shape: {line}" for line in group_layers(wrong_shapes)),
        ]
        raise WeightsError("\n  ".join([f"{origin} does not fit the model", *problems]))


def load_into(module: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors into a module's state, one at a time, converting dtype and device.

    With a sharded module each rank reads full tensors and keeps its shard of each before it reads
    the next.

    Args:
        module: its parameters and buffers are overwritten.
        tensors: (name, tensor) of the state dict, each with the full shape of its parameter.
    """
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors:
            copy_into(tensor, state[name])


def copy_into(tensor: Tensor, param: Tensor) -> None:
    """Copy a full tensor into a parameter of the same shape, converting dtype and device.

    A DTensor gets this rank's shard.
    """
    if isinstance(param, DTensor):
        # src_data_rank=None: every rank has the full tensor, so that nothing is sent
        shard = distribute_tensor(tensor, param.device_mesh, param.placements, src_data_rank=None)
        param.to_local().copy_(shard.to_local())
    else:
        param.copy_(tensor)


def _open_checkpoint(file: Path) -> StoredWeights:
    if file.is_dir():
        meta_tensors, read = open_sharded(file)
    elif file.is_file():
        state = read_checkpoint(file).get("state_dict", {})
        meta_tensors, read = (
            {name: weight.to("meta") for name, weight in state.items()},
            state.__getitem__,
        )
    else:
        raise WeightsError(f"{file} does not exist.")
    full_names = {
        name.removeprefix(MODEL_PREFIX): name
        for name in meta_tensors
        if name.startswith(MODEL_PREFIX)
    }
    if not full_names:
        raise WeightsError(
            f"{file} is not a checkpoint of a run: no weight in its state_dict starts with "
            f"{MODEL_PREFIX}."
        )
    weights = {name: meta_tensors[full_name] for name, full_name in full_names.items()}
    return StoredWeights(file, weights, lambda name: read(full_names[name]))


def _open_files(path: Path, files: list[Path], file_of: dict[str, Path] | None) -> StoredWeights:
    """Read the headers of safetensors files, and compare them with the index if there is one."""
    meta_tensors: dict[str, Tensor] = {}
    found_in: dict[str, Path] = {}
    listed = file_of or {}
    for file in files:
        for name, meta in _read_header(file).items():
            if listed.get(name, file) != file or name in found_in:
                where = (
                    f"{INDEX_FILE} beside it lists it in {listed[name].name}"
                    if name in listed
                    else f"so does {found_in[name].name}, and {INDEX_FILE} lists neither"
                )
                raise WeightsError(
                    f"{file} contains {name}, but {where}. The files do not belong together."
                )
            meta_tensors[name], found_in[name] = meta, file
    absent = {name: file for name, file in listed.items() if name not in found_in}
    unlisted = [] if file_of is None else [name for name in found_in if name not in listed]
    if absent or unlisted:
        log.warning(
            "%s is out of date: %d of the weights that it lists are not in their files, and %d in"
            " the files are not listed (%s)",
            path / INDEX_FILE,
            len(absent),
            len(unlisted),
            list_first([*absent, *unlisted]),
        )

    def read(name: str) -> Tensor:
        # opened for each tensor, so that pages that were read can be released
        with safe_open(found_in[name], "pt") as opened:
            return opened.get_tensor(name)

    return StoredWeights(path, meta_tensors, read, absent)


def _read_header(file: Path) -> dict[str, Tensor]:
    """Read the header of a safetensors file; it has to account for every byte of the file."""
    if not file.is_file():
        raise WeightsError(f"{file} does not exist.")
    meta_tensors = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in sorted(opened.keys()):
                meta_tensors[name] = meta_tensor(opened, name, file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{file} is truncated, corrupt or not a safetensors file ({error}). Download it again."
        ) from error
    return meta_tensors


def _files_in(folder: Path) -> tuple[list[Path], dict[str, Path] | None]:
    """List the safetensors files of a folder, and with an index, the file of each weight."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if index.is_file():
        file_of = _read_index(index)
        if single.is_file() and single not in file_of.values():
            raise WeightsError(
                f"{folder} contains {SINGLE_FILE} and {INDEX_FILE}, which does not list it. Remove "
                "one."
            )
        return sorted(set(file_of.values())), file_of
    files = [single] if single.is_file() else sorted(folder.glob(f"*{SAFE}"))
    if len(files) > 1:
        raise WeightsError(
            f"{folder} contains {len(files)} {SAFE} files without {INDEX_FILE}. Add the index."
        )
    if not files:
        pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLED)
        raise (
            _pickled(pickled[0])
            if pickled
            else WeightsError(f"{folder} contains neither {SINGLE_FILE} nor {INDEX_FILE}.")
        )
    return files, None


def _read_index(index: Path) -> dict[str, Path]:
    try:
        content = json.loads(
            index.read_text(encoding="utf-8"), object_pairs_hook=_reject_duplicate_keys
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"{index} is corrupt: {error}") from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index} lacks weight_map, the mapping of weights to files.")
    unsafe = {
        file
        for file in names.values()
        if not isinstance(file, str) or Path(file).name != file or "\\" in file
    }
    if unsafe:
        raise WeightsError(
            f"{index} lists {', '.join(map(repr, unsafe))}. Only names of files beside it are "
            "allowed."
        )
    missing = sorted({file for file in names.values() if not (index.parent / file).is_file()})
    if missing:
        raise WeightsError(
            f"{index} lists {', '.join(missing)}, missing in {index.parent}. Download the missing "
            "files."
        )
    return {name: index.parent / file for name, file in names.items()}


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; json.loads alone keeps the last of two equal keys."""
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"duplicate key {', '.join(repeated)}")
    return dict(pairs)


def _pickled(file: Path) -> WeightsError:
    return WeightsError(
        f"{file} is pickled, and unpickling can run code. Convert it to safetensors first."
    )
