"""Export of the learned weights of a run of conf/small.yaml to one small file, and back.

Entry points: `export_small` and `import_small`. The file is a safetensors file. It holds the
projector, MemAug and the change of the language model, but nothing of the two packages:

    projector.*, memaug.*, frame_newline   matrices in int8 with a scale of each row (`.scale`),
                                           vectors in float16
    llm.*.weight.up, llm.*.weight.down     factors of a matrix's change, of low rank, in int8 with a
                                           scale (`.scale`) of each column of up and row of down
    metadata                               version, settings, SHA-256 of the packages' files
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.config.load import config_from_dict, load_config, save_config
from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.io.atomic import atomic_path
from lit_hour.io.packaged_weights import (
    EFFICIENTNET_LITE0,
    PACKAGED_WEIGHTS,
    SMOLLM2,
    find_packaged_weights,
)
from lit_hour.io.quantize import dequantize_int8, quantize_int8
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import copy_tokenizer
from lit_hour.weights.convert import CONVERTED
from lit_hour.weights.efficientnet import CLASSIFIER, read_efficientnet
from lit_hour.weights.gguf_llm import open_gguf_weights
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import merge_adapters
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import (
    SAFE,
    check_state_dict,
    open_weights,
    optional_weights,
)
from lit_hour.weights.safetensors_writer import complete_or_absent, write_weights

VERSION = "1"
FORMAT = "lit-hour-small"
LLM_PREFIX = "llm.network."
SCALE, UP, DOWN = ".scale", ".up", ".down"
MAX_RESIDUAL = 0.01  # of the change of a matrix that its factors leave out, by Frobenius norm
MAX_BYTES = 16_000_000  # of the file; a larger one is reported


@dataclass(frozen=True)
class SmallExport:
    """Result of `export_small`: the file, its size, and the tensors in it."""

    file: Path
    num_bytes: int
    num_learned: int
    num_changed: int

    def to_text(self) -> str:
        """Format the result for the command line."""
        text = (
            f"{self.file}: {self.num_bytes / 1e6:.1f} MB in 8 bits, {self.num_learned} learned"
            f" weights and {self.num_changed} changes of the language model\n"
            f"to use it: lit-hour import-small {self.file} RUN"
        )
        if self.num_bytes > MAX_BYTES:
            text += (
                f"\nThe file is larger than {MAX_BYTES / 1e6:.0f} MB. A lower"
                " model.llm.lora.rank or model.memaug.num_layers makes it smaller."
            )
        return text


def export_small(
    run: Path, file: Path, rank: int = 16, checkpoint: str | None = None
) -> SmallExport:
    """Write what a run has learned to one file, in 8 bits.

    Args:
        run: directory of a run with the parts of conf/small.yaml.
        file: .safetensors to create.
        rank: of the factors of the language model's changes.
        checkpoint: of the run, see `RunDir.checkpoint`.

    Raises:
        WeightsError: the run has other parts, has trained the vision encoder, its language model's
            changes have a higher rank, the rank is below 1, or the file exists already.
        RunError: there is no such run or checkpoint.
    """
    if file.exists() or file.suffix != SAFE or not file.parent.is_dir():
        raise WeightsError(f"Cannot create {file}. Name a new {SAFE} file in a folder that exists.")
    if rank < 1:
        raise WeightsError(f"--rank {rank} must be at least 1.")
    path = RunDir(run).checkpoint(checkpoint)
    config = load_config(path.with_suffix(".yaml"))
    learned = merge_adapters(open_run_weights(path, config), config.model.llm.lora)
    base = _packaged_tensors(run, config)
    optional = optional_weights(config)
    tensors: dict[str, Tensor] = {}
    num_learned = num_changed = 0
    for name in learned.meta_tensors:
        if optional(name):  # the tied output layer
            continue
        weight = learned.read(name).float()
        if name not in base:
            tensors |= _quantize(name, weight)
            num_learned += 1
        elif weight.shape != base[name].shape:
            raise WeightsError(f"{path}: {name} has another shape than in its package.")
        elif not torch.equal(weight, base[name].float()):
            tensors |= _factorize(name, weight - base[name].float(), rank)
            num_changed += 1
    plain = dataclasses.replace(config.model.llm, lora=LoraConfig(), path="")
    vision = dataclasses.replace(config.model.vision, weights="")
    model = dataclasses.replace(config.model, llm=plain, vision=vision)
    training = dataclasses.replace(config.training, init_from="")
    settings = dataclasses.asdict(dataclasses.replace(config, model=model, training=training))
    metadata = {"format": FORMAT, "version": VERSION, "settings": json.dumps(settings)}
    metadata |= {name: one.sha256 for name, one in PACKAGED_WEIGHTS.items()}
    with atomic_path(file) as temp:
        save_file({name: one.contiguous() for name, one in tensors.items()}, temp, metadata)
    return SmallExport(file, file.stat().st_size, num_learned, num_changed)


def import_small(file: Path, run: Path) -> Config:
    """Make a run from a file of `export_small` and the two packages.

    Args:
        file: .safetensors.
        run: new or empty directory.

    Returns:
        The settings of the run.

    Raises:
        WeightsError: the file is damaged or of another version, a package is missing or another
            version than that of the file, or the directory is not empty.
    """
    metadata = _read_metadata(file)
    config = config_from_dict(json.loads(metadata["settings"]), str(file))
    stored = open_weights(file)
    base = _packaged_tensors(file, config)
    weights = dict(_restore({name: stored.read(name) for name in stored.meta_tensors}, base))
    language = find_packaged_weights(SMOLLM2, str(file))
    meta = drop_tied_output(meta_state_dict(config, config.model.llm.vocab_size), config)
    check_state_dict(meta, weights, str(file))
    with complete_or_absent(run.absolute(), sum(one.nbytes for one in weights.values())) as folder:
        unfinished = RunDir(folder)
        checkpoint = unfinished.checkpoints / CONVERTED
        checkpoint.mkdir(parents=True)
        write_weights(checkpoint, weights.items())
        copy_tokenizer(language, unfinished.tokenizer)
        save_config(config, checkpoint.with_suffix(".yaml"))
        save_config(config, unfinished.config)
    return config


def _packaged_tensors(origin: Path, config: Config) -> dict[str, Tensor]:
    """Return the weights of both packages by their names in a run.

    Raises:
        WeightsError: the run has another vision encoder, or a package cannot be used.
    """
    if not config.model.vision.name.startswith(EFFICIENTNET_LITE0):
        raise WeightsError(
            f"{origin} has the vision encoder {config.model.vision.name}, not"
            f" {EFFICIENTNET_LITE0}. Only runs of conf/small.yaml can be exported."
        )
    tower = read_efficientnet(find_packaged_weights(EFFICIENTNET_LITE0, str(origin)))
    language = open_gguf_weights(find_packaged_weights(SMOLLM2, str(origin)))
    tensors = {name: one for name, one in tower.items() if name not in CLASSIFIER}
    return tensors | {LLM_PREFIX + name: one for name, one in language.tensors()}


def _quantize(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Return a matrix in int8 with the scale of each row, and any other tensor in float16."""
    if weight.dim() != 2:
        return {name: weight.half()}
    values, scales = quantize_int8(weight)  # (rows, columns), (rows,)
    return {name: values, name + SCALE: scales}


def _factorize(name: str, change: Tensor, rank: int) -> dict[str, Tensor]:
    """Return the factors of a change of the language model, in int8.

    Raises:
        WeightsError: the change is of another part, or of a higher rank.
    """
    if not name.startswith(LLM_PREFIX) or change.dim() != 2:
        raise WeightsError(
            f"{name} differs from its package, and only matrices of the language model may. Train"
            " with training.learning_rate.vision=0 and adapters (model.llm.lora.rank)."
        )
    left, values, right = torch.svd_lowrank(change, q=min(rank + 8, *change.shape), niter=3)
    left, values, right = left[:, :rank], values[:rank], right[:, :rank]
    up, down = left * values.sqrt(), (right * values.sqrt()).T  # (rows, rank), (rank, columns)
    residual = float((change - up @ down).norm() / change.norm())
    if residual > MAX_RESIDUAL:
        raise WeightsError(
            f"{name} has changed by more than rank {rank}: {residual:.0%} of the change would be"
            " lost. Raise --rank, or train adapters (model.llm.lora.rank)."
        )
    up_values, up_scales = quantize_int8(up.T)  # (rank, rows), (rank,)
    down_values, down_scales = quantize_int8(down)  # (rank, columns), (rank,)
    return {
        name + UP: up_values,
        name + UP + SCALE: up_scales,
        name + DOWN: down_values,
        name + DOWN + SCALE: down_scales,
    }


def _restore(stored: dict[str, Tensor], base: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights of the run in float32."""

    def read(name: str) -> Tensor:
        tensor = stored[name]
        if tensor.dtype != torch.int8:
            return tensor.float()
        return dequantize_int8(tensor, stored[name + SCALE], torch.float32)

    for name, weight in base.items():
        if name + UP in stored:
            weight = weight + read(name + UP).T @ read(name + DOWN)  # (rows, columns)
        yield name, weight
    for name in stored:
        is_factor = name.endswith((UP, DOWN)) or name.startswith(LLM_PREFIX)
        if not (is_factor or name.endswith(SCALE)):
            yield name, read(name)


def _read_metadata(file: Path) -> dict[str, Any]:
    """Return the metadata of a file of `export_small`.

    Raises:
        WeightsError: it is another file, or was made with other packages.
    """
    open_weights(file)  # a damaged file is reported
    with safe_open(file, "pt") as opened:
        metadata: dict[str, Any] = opened.metadata() or {}
    found = (metadata.get("format"), metadata.get("version"))
    if found != (FORMAT, VERSION):
        raise WeightsError(
            f"{file} is not a file of lit-hour export-small, version {VERSION}. Give one, or for a"
            " published model use lit-hour convert."
        )
    for name, weights in PACKAGED_WEIGHTS.items():
        if metadata.get(name) != weights.sha256:
            raise WeightsError(
                f"{file} was made with another version of {weights.package} than"
                f" {weights.version}. Export it again."
            )
    return metadata
