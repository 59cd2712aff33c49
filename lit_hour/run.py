"""A run folder: what training leaves behind and answering starts from.

RUN/config.yaml                 the effective settings of the latest start
RUN/tokenizer/                  the tokenizer, in the Hugging Face layout
RUN/checkpoints/last.ckpt       newest; step=000500.ckpt every N steps; best.ckpt has the lowest validation loss
RUN/checkpoints/last.yaml       the effective settings, beside each checkpoint
RUN/tensorboard/                curves and pictures
RUN/skipped.jsonl               samples that could not be read, with the reason
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_hour.config.schema import RunConfig
from lit_hour.errors import RunError


@dataclass(frozen=True)
class RunFolder:
    """The places inside a run folder."""

    path: Path

    @classmethod
    def of(cls, settings: RunConfig) -> RunFolder:
        """The folder of a run by its settings."""
        return cls(Path(settings.folder) / settings.name)

    @property
    def config(self) -> Path:
        """The effective settings of the latest start."""
        return self.path / "config.yaml"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder."""
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard looks."""
        return self.path / "tensorboard"

    @property
    def skipped(self) -> Path:
        """The list of samples that could not be read."""
        return self.path / "skipped.jsonl"

    def checkpoint(self, name: str | None = None) -> Path:
        """The file of a checkpoint by name ("best", "last", "step=000500"); the best one, or else the last, without.

        Raises:
            RunError: there is no such run or no such checkpoint.
        """
        if not self.path.is_dir():
            raise RunError(f"no run at {self.path}: train one first, or give the folder of another with --run")
        if name is None:
            name = "best" if (self.checkpoints / "best.ckpt").is_file() else "last"
        file = self.checkpoints / f"{name}.ckpt"
        if not file.is_file():
            present = ", ".join(sorted(each.stem for each in self.checkpoints.glob("*.ckpt"))) or "none yet"
            raise RunError(f"no checkpoint {name!r} in {self.checkpoints}; there is: {present}")
        return file


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What a checkpoint holds; its tensors stay on disk until they are used.

    Raises:
        RunError: the file is no whole checkpoint.
    """
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        raise RunError(f"{file} is damaged or no checkpoint: delete it, or choose another") from error
