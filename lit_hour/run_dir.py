"""A run folder: what training leaves behind and answering starts from.

RUN/config.yaml                 the effective settings of the latest start
RUN/tokenizer/                  the tokenizer, in the Hugging Face layout
RUN/checkpoints/last.ckpt       newest; step=000500.ckpt every N steps; best.ckpt has the lowest validation loss
RUN/checkpoints/last.ckpt/      the same names are folders of pieces where the model was sharded
RUN/checkpoints/converted/      weights alone, that `python -m lit_hour convert` made of a published model
RUN/checkpoints/last.yaml       the effective settings, beside each checkpoint: also converted.yaml
RUN/tensorboard/                curves and pictures
RUN/evidence.png                accuracy of the latest validation by the length of videos and where in them answers are seen
RUN/evaluation/NAME/            answers and report of `python -m lit_hour evaluate`
RUN/skipped.jsonl               samples that could not be read, with the reason
RUN/bad_batch/                  batches whose loss or gradient was not finite, when they stopped the run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.schema import RunConfig
from lit_hour.errors import RunError

DEFAULT_CHECKPOINTS = ("best", "last", "converted")


@dataclass(frozen=True)
class RunDir:
    """The places inside a run folder."""

    path: Path

    @classmethod
    def from_config(cls, settings: RunConfig) -> RunDir:
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
    def evidence(self) -> Path:
        """The picture of where in videos the answers are seen that were right."""
        return self.path / "evidence.png"

    @property
    def evaluation(self) -> Path:
        """Where evaluations lie, a folder each."""
        return self.path / "evaluation"

    @property
    def skipped(self) -> Path:
        """The list of samples that could not be read."""
        return self.path / "skipped.jsonl"

    @property
    def bad_batch(self) -> Path:
        """Batches that stopped the run, for inspection."""
        return self.path / "bad_batch"

    def checkpoint(self, name: str | None = None) -> Path:
        """A checkpoint by name: "best", "last" or "step=000500" of training, or the folder "converted".

        Without a name it is the first of "best", "last" and "converted" that is there.

        Raises:
            RunError: there is no such run or no such checkpoint.
        """
        if not self.path.is_dir():
            raise RunError(
                f"no run at {self.path}: train one first, or give the folder of another with --run"
            )
        present = {
            **{folder.name: folder for folder in self.checkpoints.glob("*/") if not folder.suffix},
            **{place.stem: place for place in self.checkpoints.glob("*.ckpt")},
        }
        wanted = DEFAULT_CHECKPOINTS if name is None else (name,)
        for each in wanted:
            if each in present:
                return present[each]
        raise RunError(
            f"no checkpoint {' or '.join(map(repr, wanted))} in {self.checkpoints};"
            f" there is: {', '.join(sorted(present)) or 'none yet'}"
        )
