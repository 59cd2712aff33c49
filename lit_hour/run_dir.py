"""Layout of a run directory, which training writes and inference, serving and evaluation read.

RUN/config.yaml             effective settings of the latest start
RUN/tokenizer/              tokenizer in the Hugging Face layout
RUN/checkpoints/last.ckpt   newest; step=000500.ckpt every N steps; best.ckpt: lowest val/loss.
                            A file, or a folder if the model was sharded
RUN/checkpoints/last.yaml   effective settings; one beside each checkpoint
RUN/checkpoints/converted/  weights of a published model, written by `lit-hour convert`
RUN/tensorboard/            metrics and plots; in their place, by `training.logger`:
RUN/metrics/metrics.csv     a table, with the plots in images/ beside it
RUN/wandb/                  files of Weights & Biases
RUN/profile/                traces by `training.profiler`
RUN/haystack.png            accuracy by video length and depth of the evidence, latest validation
RUN/evaluation/NAME/        answers and report of `lit-hour evaluate`
RUN/needle/VIDEO/           answers and heat map of `lit-hour needle`
RUN/bad_samples.jsonl       samples that could not be read, with the reason
RUN/nonfinite_batches/      batches with a non-finite loss or gradient that stopped the run
RUN/lease/                  which process trains the run at present
"""

from __future__ import annotations

from pathlib import Path

from lit_hour.config.schema import RunConfig
from lit_hour.errors import RunError, download_hint

DEFAULT_CHECKPOINTS = ("best", "last", "converted")  # in order of preference


class RunDir:
    """Paths inside a run directory.

    Attributes:
        path: the directory itself.
        config: effective settings of the latest start.
        tokenizer: directory of the tokenizer.
        checkpoints: directory of the checkpoints.
        tensorboard: log directory for TensorBoard.
        metrics: directory of the table of metrics.
        wandb: log directory for Weights & Biases.
        profile: directory of the profiler's traces.
        haystack_plot: heat map of the accuracy by video length and depth.
        evaluation: directory with one folder for each evaluation.
        bad_samples: list of the samples that could not be read.
        nonfinite_batches: directory of the batches that stopped the run.
        lease: directory that exists while a process trains the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.tokenizer = path / "tokenizer"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics"
        self.wandb = path / "wandb"
        self.profile = path / "profile"
        self.haystack_plot = path / "haystack.png"
        self.evaluation = path / "evaluation"
        self.bad_samples = path / "bad_samples.jsonl"
        self.nonfinite_batches = path / "nonfinite_batches"
        self.lease = path / "lease"

    @classmethod
    def from_config(cls, config: RunConfig) -> RunDir:
        """Return the directory `folder/name` of the settings."""
        return cls(Path(config.folder) / config.name)

    def checkpoint(self, name: str | None = None) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: "best", "last", "step=000500" or "converted". By default the first of "best",
                "last" and "converted" that exists.

        Raises:
            RunError: there is no such run or no such checkpoint.
        """
        if not self.path.is_dir():
            raise RunError(
                f"There is no run at {self.path}. Train one first, or name another with --run."
                f"{download_hint(self.path)}"
            )
        paths = {path.name: path for path in self.checkpoints.glob("*/") if not path.suffix}
        paths |= {path.stem: path for path in self.checkpoints.glob("*.ckpt")}
        names = DEFAULT_CHECKPOINTS if name is None else (name,)
        for candidate in names:
            if candidate in paths:
                return paths[candidate]
        raise RunError(
            f"{self.checkpoints} has no checkpoint {' or '.join(map(repr, names))}."
            f" It has: {', '.join(sorted(paths)) or 'none yet'}"
        )
