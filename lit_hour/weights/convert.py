"""Convert a published Hour-LLaVA to a run directory, and a run to the published layout.

Start at `convert`. Everything is checked before anything is written, weights pass one at a time,
and the target folder appears when it is complete.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_hour.config.load import config_from_dict, load_config, save_config
from lit_hour.errors import WeightsError, download_hint
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import copy_tokenizer, end_of_turn_id, load_tokenizer
from lit_hour.weights.hf_config import (
    CONFIG,
    check_tokenizer,
    differences_from_published,
    hf_config_values,
    is_published,
    read_published_config,
    settings_from_hf,
)
from lit_hour.weights.hf_folder import (
    MetaTensors,
    drop_tied_output,
    meta_state_dict,
    open_published,
)
from lit_hour.weights.name_map import (
    EMBEDDING,
    PUBLISHED_TOWER,
    TIME_EMBEDDING,
    merge_adapters,
    to_hf,
)
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import StoredWeights, check_state_dict, optional_weights
from lit_hour.weights.safetensors_writer import check_empty, complete_or_absent, write_weights

CONVERTED = "converted"  # checkpoint name of a converted model
PROJECTOR = "projector.layers.0.weight"
POST_NORM = f"{PUBLISHED_TOWER}post_layernorm"
ALTERNATIVES = {  # advice for other kinds of folders
    "LLaVA-OneVision": "It has no MemAug. Train it with: python train.py -c conf/NAME.yaml"
    " training.init_from={}",
    "a plain language model": "Train from it with: python train.py -c conf/NAME.yaml"
    " model.llm.path={} text.tokenizer={}",
}


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion, with what to do next.

    Attributes:
        notes: unused weights and differences from the published code.
        next_commands: argument lists of commands to try.
    """

    target: Path
    num_weights: int
    num_bytes: int
    notes: tuple[str, ...]
    next_commands: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Format the report for the command line."""
        lines = [
            f"{self.target}: {self.num_weights} weights, {self.num_bytes / 1e9:.2f} GB",
            *self.notes,
        ]
        return "\n".join(
            [
                *lines,
                "\nwhat to try next:",
                *(f"  {shlex.join(command)}" for command in self.next_commands),
            ]
        )


def convert(
    source: Path, target: Path, overrides: Sequence[str] = (), checkpoint: str | None = None
) -> ConversionReport:
    """Convert between a Hugging Face folder and a run directory, in the direction of the source.

    Args:
        source: folder to read.
        target: new or empty folder.
        overrides: settings as `a.b=c`, which override those of the source.
        checkpoint: checkpoint of a run, see `RunDir.checkpoint`.

    Raises:
        WeightsError, RunError, ConfigError: The source is incomplete or unsupported, or the target
            is not empty.
    """
    check_empty(target)
    if is_published(source):
        if checkpoint is not None:
            raise WeightsError(
                f"{source} is not a run directory. Remove --checkpoint {checkpoint}."
            )
        return _hf_to_run(source, target.absolute(), overrides)
    if (source / "checkpoints").is_dir():
        return _run_to_hf(source, target.absolute(), overrides, checkpoint)
    raise WeightsError(
        f"{source} is neither a Hugging Face folder (with {CONFIG}) nor a run directory (with"
        f" checkpoints/). Give one of the two.{download_hint(source)}"
    )


def _hf_to_run(source: Path, target: Path, overrides: Sequence[str]) -> ConversionReport:
    published = read_published_config(source)
    if published.kind != "Hour-LLaVA":
        raise WeightsError(
            f"{source} is {published.kind}. {ALTERNATIVES[published.kind].format(source, source)}"
        )
    names_tower = any(override.startswith("model.vision.name=") for override in overrides)
    config = config_from_dict(
        settings_from_hf(published, names_tower), str(published.file), overrides
    )
    check_tokenizer(published, len(load_tokenizer(source)))
    meta = meta_state_dict(config, num_tokens=0)
    opened = open_published(published, config, meta)
    weights = opened.weights.merge(_zero_time_embedding(source, meta))
    with complete_or_absent(target, weights.num_bytes) as unfinished:
        run = RunDir(unfinished)
        checkpoint = run.checkpoints / CONVERTED
        checkpoint.mkdir(parents=True)
        write_weights(checkpoint, weights.tensors())
        copy_tokenizer(source, run.tokenizer)
        save_config(config, checkpoint.with_suffix(".yaml"))
        save_config(config, run.config)
    notes = [f"unused weights: {', '.join(opened.unused)}"] if opened.unused else []
    return ConversionReport(
        target,
        len(weights.meta_tensors),
        weights.num_bytes,
        tuple(notes),
        (
            ("lit-hour", "ask", "--run", str(target), "VIDEO.mp4", "QUESTION"),
            ("python", "train.py", "-c", "conf/NAME.yaml", f"training.init_from={target}"),
        ),
    )


def _run_to_hf(
    source: Path, target: Path, overrides: Sequence[str], checkpoint: str | None
) -> ConversionReport:
    run = RunDir(source)
    file = run.checkpoint(checkpoint)
    config = load_config(file.with_suffix(".yaml"), overrides)
    if config.text.frame_times == "embedding":
        raise WeightsError(
            f"{file} was trained with text.frame_times=embedding, and the published model has no"
            " embedding of times. Convert a run with text.frame_times=off or text."
        )
    tokenizer = load_tokenizer(run.tokenizer)
    stored = open_run_weights(file, config)
    check_state_dict(
        meta_state_dict(config, len(tokenizer)),
        stored.meta_tensors,
        f"{file}, with the settings beside it,",
        optional=optional_weights(config),
    )
    plain = merge_adapters(stored, config.model.llm.lora)
    num_rows, vision_dim = (
        len(plain.meta_tensors[EMBEDDING]),
        plain.meta_tensors[PROJECTOR].shape[1],
    )
    dtype = plain.meta_tensors[EMBEDDING].dtype
    untied = plain.subset(drop_tied_output(plain.meta_tensors, config).keys())
    weights = to_hf(untied).merge(_post_norm(file, vision_dim, dtype))
    values = hf_config_values(config, num_rows, vision_dim, str(dtype).removeprefix("torch."))
    values["eos_token_id"] = end_of_turn_id(tokenizer)
    with complete_or_absent(target, weights.num_bytes) as unfinished:
        write_weights(unfinished, weights.tensors())
        copy_tokenizer(run.tokenizer, unfinished)
        (unfinished / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    notes = [
        f"from {file}",
        f"{POST_NORM}.* are ones and zeros; the published code does not use its output",
    ]
    if config.model.llm.lora.rank:
        notes.append("the LoRA adapters are merged into the language model")
    if differences := differences_from_published(config):
        notes.append(f"the published code computes differently: {'; '.join(differences)}")
    tower = (
        f"model.vision.name={config.model.vision.name}",
        f"video.image_size={config.video.image_size}",
    )
    back = ("lit-hour", "convert", str(target), "RUN", *tower)
    return ConversionReport(
        target, len(weights.meta_tensors), weights.num_bytes, tuple(notes), (back,)
    )


def _zero_time_embedding(source: Path, meta: MetaTensors) -> StoredWeights:
    """Return a new embedding of times for a model that has one; no weights for another."""
    zeros = {
        name: torch.zeros(weight.shape)
        for name, weight in meta.items()
        if name.startswith(TIME_EMBEDDING)
    }
    return StoredWeights(
        source, {name: weight.to("meta") for name, weight in zeros.items()}, zeros.__getitem__
    )


def _post_norm(file: Path, dim: int, dtype: torch.dtype) -> StoredWeights:
    """Return the identity for the unused norm behind the published vision tower."""
    made = {
        f"{POST_NORM}.weight": torch.ones(dim, dtype=dtype),
        f"{POST_NORM}.bias": torch.zeros(dim, dtype=dtype),
    }  # (dim,)
    return StoredWeights(
        file, {name: tensor.to("meta") for name, tensor in made.items()}, made.__getitem__
    )
