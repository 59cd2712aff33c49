"""Weights on disk: what is there is known without reading it, then each is read when it is asked for.

They lie in a folder as model.safetensors, or as model.safetensors.index.json and the shards that it lists; in one
.safetensors file; or in a Lightning checkpoint of ours (.ckpt), one file or the folder of a sharded one, of which the model's
part counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_hour.errors import WeightsError
from lit_hour.weights.dcp_reader import META, is_sharded, meta_tensor, open_sharded

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SAFE, CHECKPOINT = ".safetensors", ".ckpt"
PICKLED = (".bin", ".pt", ".pth")
MODEL_PREFIX = "model."  # of the model's part in a Lightning checkpoint

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredWeights:
    """Weights that lie on disk.

    Attributes:
        path: where they come from, for messages.
        outlines: each by its name, as a tensor that has a shape and a dtype and no data (on the device "meta").
        read: a name -> the tensor, which stays on disk until it is used.
    """

    path: Path
    meta_tensors: Mapping[str, Tensor]
    read: Callable[[str], Tensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each."""
        return shapes_of(self.meta_tensors)

    @property
    def num_bytes(self) -> int:
        """What all of them take."""
        return sum(outline.nbytes for outline in self.meta_tensors.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each with its name, read when it is asked for."""
        return ((name, self.read(name)) for name in self.meta_tensors)

    def subset(self, names: Collection[str]) -> StoredWeights:
        """Some of them, in the order that they have here."""
        return replace(
            self,
            meta_tensors={
                name: outline for name, outline in self.meta_tensors.items() if name in names
            },
        )

    def renamed(self, rename: Callable[[str], str]) -> StoredWeights:
        """All of them under other names."""
        name_of = {rename(name): name for name in self.meta_tensors}
        outlines = {new: self.meta_tensors[name] for new, name in name_of.items()}
        return StoredWeights(self.path, outlines, lambda new: self.read(name_of[new]))

    def __or__(self, others: StoredWeights) -> StoredWeights:
        """These and those, which win where both have a name."""

        def read(name: str) -> Tensor:
            return others.read(name) if name in others.meta_tensors else self.read(name)

        return StoredWeights(self.path, {**self.meta_tensors, **others.meta_tensors}, read)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each of some named tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def open_weights(path: Path) -> StoredWeights:
    """Look at weights without reading them.

    Raises:
        WeightsError: there are none, a file is missing, damaged or no safetensors, or an index and its shards disagree.
    """
    if path.is_dir() and path.suffix != CHECKPOINT:
        return _open_files(path, *_files_in(path))
    if path.suffix == CHECKPOINT:
        return _open_checkpoint(path)
    if path.suffix in PICKLED:
        raise _pickled(path)
    if path.suffix != SAFE:
        raise WeightsError(
            f"{path} holds no weights that can be read: give a {SAFE} file, or a folder of them"
        )
    return _open_files(path, [path], None)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What a Lightning checkpoint of ours holds; its tensors stay on disk until they are used.

    Of the folder of a sharded one it is what is not sharded: the steps, but not the weights and the optimizer's state.

    Raises:
        WeightsError: the file is no whole checkpoint, or one that would run code.
    """
    try:
        return torch.load(
            file / META if file.is_dir() else file, map_location="cpu", mmap=True, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise WeightsError(
            f"{file} is damaged or no checkpoint: delete it, or choose another"
        ) from error


def check_floating_point(stored: StoredWeights) -> None:
    """Refuse weights that are no numbers with a fraction: those of a quantised model mean nothing without their scales.

    Raises:
        WeightsError: it names the first.
    """
    for name, outline in stored.meta_tensors.items():
        if not outline.is_floating_point():
            kind = str(outline.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{stored.path}: {name} is stored as {kind}: give weights that are not quantised"
            )


def check_state_dict(
    expected: Shapes,
    found: Shapes,
    origin: str,
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Refuse weights that are not those that a model has.

    Args:
        expected: the model's.
        found: those at hand; `origin` names them in the error.
        may_lack: which of the expected may be absent.

    Raises:
        WeightsError: it names every weight that is missing, left over or of another shape, a line for those of all layers.
    """
    missing = [name for name in expected if name not in found and not optional(name)]
    left_over = [name for name in found if name not in expected]
    shapes = {
        name: f" is {found[name]} and has to be {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    }
    complaints = [
        *(f"missing: {each}" for each in _group_layers(dict.fromkeys(missing, ""))),
        *(f"left over: {each}" for each in _group_layers(dict.fromkeys(left_over, ""))),
        *(f"of another shape: {each}" for each in _group_layers(shapes)),
    ]
    if complaints:
        raise WeightsError("\n  ".join([f"{origin} does not fit the model", *complaints]))


def _group_layers(remarks: Mapping[str, str]) -> Iterator[str]:
    """Names with their remarks, those of equal layers in one: `layers.{0-25}.norm.weight` for twenty-six."""
    numbers_of: dict[tuple[str, str, str], list[int]] = {}
    for name, remark in remarks.items():
        before, number, after = re.fullmatch(r"(.*?)(?:(?<=\.)(\d+)(?=\.)(.*))?", name).groups()  # type: ignore[union-attr]
        numbers_of.setdefault((before, after or "", remark), []).extend(
            [int(number)] if number else []
        )
    for (before, after, remark), numbers in numbers_of.items():
        yield f"{before}{_ranges(sorted(numbers))}{after}{remark}"


def _ranges(numbers: list[int]) -> str:
    """`3` for one number, `{0-2,5}` for several, nothing for none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spelt = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{{{spelt}}}" if len(numbers) > 1 else spelt


def load_into(module: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors that fit into a module's weights, one at a time, each into the dtype and onto the device of its place.

    Of a sharded module each rank reads whole tensors, and keeps its part of each before it reads the next.
    """
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors:
            copy_into(tensor, state[name])


def copy_into(tensor: Tensor, param: Tensor) -> None:
    """Copy a tensor into its place; into a sharded one this rank's part of it."""
    if isinstance(param, DTensor):
        part = distribute_tensor(
            tensor, param.device_mesh, param.placements, src_data_rank=None
        )  # nothing is sent
        param.to_local().copy_(part.to_local())
    else:
        param.copy_(tensor)


def _open_checkpoint(file: Path) -> StoredWeights:
    if is_sharded(file):
        outlines, read = open_sharded(file)
    elif file.is_file():
        state = read_checkpoint(file).get("state_dict", {})
        outlines, read = (
            {name: weight.to("meta") for name, weight in state.items()},
            state.__getitem__,
        )
    else:
        raise WeightsError(f"no file {file}")
    stored = StoredWeights(file, outlines, read)
    model = stored.subset({name for name in outlines if name.startswith(MODEL_PREFIX)})
    if not model.meta_tensors:
        raise WeightsError(
            f"{file} is no checkpoint of a run: its state_dict has no weight that starts with {MODEL_PREFIX}"
        )
    return model.renamed(lambda name: name.removeprefix(MODEL_PREFIX))


def _open_files(path: Path, files: list[Path], file_of: dict[str, Path] | None) -> StoredWeights:
    """Look into safetensors files, and compare them with the index where there is one."""
    outlines: dict[str, Tensor] = {}
    where: dict[str, Path] = {}
    for file in files:
        for name, outline in _read_header(file).items():
            if file_of is not None and file_of.get(name) != file:
                listed = (
                    f"lists it in {file_of[name].name}" if name in file_of else "does not list it"
                )
                raise WeightsError(
                    f"{file} holds {name}, but {INDEX_FILE} beside it {listed}: these files do not belong together"
                )
            outlines[name], where[name] = outline, file
    for name, file in (file_of or {}).items():
        if name not in where:
            raise WeightsError(
                f"{file} lacks {name}, which {INDEX_FILE} beside it places there: fetch the file again"
            )

    def read(name: str) -> Tensor:
        with safe_open(
            where[name], "pt"
        ) as opened:  # anew each time, so that what was read is let go of
            return opened.get_tensor(name)

    return StoredWeights(path, outlines, read)


def _read_header(file: Path) -> dict[str, Tensor]:
    """The outlines of a safetensors file, whose header has to account for every byte of it."""
    if not file.is_file():
        raise WeightsError(f"no file {file}")
    outlines = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in sorted(opened.keys()):
                outlines[name] = meta_tensor(opened, name, file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{file} is cut off, damaged or no safetensors file ({error}): fetch it again"
        ) from error
    return outlines


def _files_in(folder: Path) -> tuple[list[Path], dict[str, Path] | None]:
    """The safetensors files of a folder, and which of them has which weight if an index says so."""
    whole, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if index.is_file():
        file_of = _read_index(index)
        if whole.is_file() and whole not in file_of.values():
            raise WeightsError(
                f"{folder} holds {SINGLE_FILE} and {INDEX_FILE}, which does not list it: remove the one that is not meant"
            )
        return sorted(set(file_of.values())), file_of
    files = [whole] if whole.is_file() else sorted(folder.glob(f"*{SAFE}"))
    if len(files) > 1:
        raise WeightsError(
            f"{folder} holds {len(files)} {SAFE} files and no {INDEX_FILE} that says what belongs together"
        )
    if not files:
        pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLED)
        raise (
            _pickled(pickled[0])
            if pickled
            else WeightsError(f"no {SINGLE_FILE} and no {INDEX_FILE} in {folder}")
        )
    return files, None


def _read_index(index: Path) -> dict[str, Path]:
    try:
        content = json.loads(
            index.read_text(encoding="utf-8"), object_pairs_hook=_reject_duplicate_keys
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"{index} is damaged: {error}") from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index} has no weight_map, which says what lies in which file")
    strange = {
        file
        for file in names.values()
        if not isinstance(file, str) or Path(file).name != file or "\\" in file
    }
    if strange:
        raise WeightsError(
            f"{index} names {', '.join(map(repr, strange))}: only plain names of files beside it are read"
        )
    missing = sorted({file for file in names.values() if not (index.parent / file).is_file()})
    if missing:
        raise WeightsError(
            f"{index} lists {', '.join(missing)}, which is not in {index.parent}: fetch what is missing"
        )
    return {name: index.parent / file for name, file in names.items()}


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which Python itself would keep the last of two equal names."""
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is in it twice")
    return dict(pairs)


def _pickled(file: Path) -> WeightsError:
    return WeightsError(
        f"{file} is pickled, and reading it could run code: convert it to safetensors first"
    )
