"""The base of a checkpoint: frozen weights that it names by digest instead of holding them.

With `training.save_weights=learned` a checkpoint has the entry `base_weights`:

    sources    the settings that name pretrained weights, with absolute paths
    sha256     SHA-256 of each weight that the checkpoint leaves out, by its name in the model

`open_run_weights` in `pretrained.py` reads such a checkpoint together with its base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.weights.name_map import EMBEDDING
from lit_hour.weights.reader import MODEL_PREFIX, OUTPUT_LAYER, StoredWeights

BASE_WEIGHTS = "base_weights"  # key in a checkpoint
SOURCES, SHA256 = "sources", "sha256"  # keys in its entry


@dataclass(frozen=True)
class BaseRecord:
    """The entry of a checkpoint that names its base.

    Attributes:
        sources: setting to its value, such as `model.llm.path`; paths are absolute.
        digests: name of a weight in the model to the SHA-256 of the weight in the source.
    """

    sources: Mapping[str, str]
    digests: Mapping[str, str]

    @classmethod
    def of_checkpoint(cls, content: Mapping[str, Any]) -> BaseRecord | None:
        """Return the record of a loaded checkpoint; None if it holds all weights."""
        entry = content.get(BASE_WEIGHTS)
        return cls(entry[SOURCES], entry[SHA256]) if entry else None

    def to_entry(self) -> dict[str, dict[str, str]]:
        """Return the entry for the checkpoint, in plain containers."""
        return {SOURCES: dict(self.sources), SHA256: dict(self.digests)}

    def omitted(self, is_tied: bool) -> set[str]:
        """Return the names in `state_dict` that the checkpoint leaves out.

        Args:
            is_tied: the output layer shares the weights of the embedding.
        """
        names = set(self.digests)
        if is_tied and EMBEDDING in names:
            names.add(OUTPUT_LAYER)
        return {f"{MODEL_PREFIX}{name}" for name in names}


def record_base(config: Config, base: StoredWeights, name_of: Mapping[str, str]) -> BaseRecord:
    """Hash weights of the pretrained source.

    Args:
        config: names the source.
        base: the weights of the source.
        name_of: the source's name of each weight to hash, to its name in the model.
    """
    return BaseRecord(
        {key: _absolute(value) for key, value in _sources(config).items() if value},
        {ours: weight_digest(base.parts(name)) for name, ours in name_of.items()},
    )


def with_sources(config: Config, record: BaseRecord) -> Config:
    """Return settings that name the base: their own sources, or the recorded paths.

    A relative path was relative to the directory in which training was started.
    """
    sources = {
        key: value if not value or Path(value).exists() else record.sources.get(key, value)
        for key, value in _sources(config).items()
    }
    llm = replace(config.model.llm, path=sources["model.llm.path"])
    vision = replace(config.model.vision, weights=sources["model.vision.weights"])
    return replace(
        config,
        model=replace(config.model, llm=llm, vision=vision),
        training=replace(config.training, init_from=sources["training.init_from"]),
    )


def verified(
    base: StoredWeights, name_of: Mapping[str, str], record: BaseRecord, origin: str
) -> StoredWeights:
    """Return the weights that a checkpoint leaves out, under their names in the model.

    Args:
        base: the weights of the source.
        name_of: name in the model to the name in the source.
        record: the digests; each weight is checked when it is read.
        origin: names the checkpoint in errors.

    Raises:
        WeightsError: The source lacks one of the weights. Reading raises it for another weight.
    """
    sources = ", ".join(f"{key}={value}" for key, value in record.sources.items())
    remedy = f"Restore its base, {sources}, as it was, or name a copy of it in these settings."
    for name in record.digests:
        if name_of[name] not in base.meta_tensors:
            raise WeightsError(f"{origin} needs {name}, which {base.path} lacks. {remedy}")

    def read(name: str) -> Tensor:
        if weight_digest(base.parts(name_of[name])) != record.digests[name]:
            raise WeightsError(
                f"{origin} was trained on another base than {base.path}: {name} differs. {remedy}"
            )
        return base.read(name_of[name])

    meta_tensors = {name: base.meta_tensors[name_of[name]] for name in record.digests}
    return StoredWeights(base.path, meta_tensors, read)


def weight_digest(parts: Iterable[Tensor]) -> str:
    """Return the SHA-256 of tensors: dtype, shape and every bit."""
    digest = hashlib.sha256()
    for tensor in parts:
        plain = tensor.detach().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def frozen_names(model: nn.Module) -> set[str]:
    """Return the names of what training does not change: parameters, and buffers of frozen parts.

    A part is a child of the model. Running statistics of a part that learns may change.
    """
    parameters = model.named_parameters(remove_duplicate=False)  # tied ones by both names
    learned = {name for name, parameter in parameters if parameter.requires_grad}
    parts = {name.partition(".")[0] for name in learned}
    buffers = {name for name, _ in model.named_buffers()}
    frozen_buffers = {name for name in buffers if name.partition(".")[0] not in parts}
    return model.state_dict().keys() - learned - buffers | frozen_buffers


def _sources(config: Config) -> dict[str, str]:
    return {
        "training.init_from": config.training.init_from,
        "model.llm.path": config.model.llm.path,
        "model.vision.weights": config.model.vision.weights,
    }


def _absolute(value: str) -> str:
    """Return a path in absolute form; the name of a package's weights unchanged."""
    return str(Path(value).absolute()) if Path(value).exists() else value
