"""The logger of a run: TensorBoard's files, a table, or Weights & Biases.

`build_logger` is the entry point. Callbacks use `flush_logger` and `log_figure`, for which
Lightning's loggers have no common interface.
"""

from __future__ import annotations

import csv
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image

from lit_hour.config.schema import Config
from lit_hour.io.atomic import atomic_write
from lit_hour.run_dir import RunDir

COMPARED_METRIC = "val/loss"  # beside the settings of each run in TensorBoard's table of runs
TABLE_NAME, STEP_COLUMN = "metrics.csv", "step"  # of Lightning's table
EARLIER_TABLE_NAME = "metrics.earlier.csv"  # while a resumed run opens its table
WANDB_PROJECT = "lit_hour"  # unless the variable WANDB_PROJECT names another


class MetricsTable(CSVLogger):
    """`metrics.csv`, which a resumed run continues, and pictures as PNG files beside it.

    Lightning's logger deletes the table of an earlier start.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        """Keep the rows of an earlier start before `resume_step`; later steps are taken again."""
        super().__init__(folder, name="", version="")
        self._resume_step = resume_step

    @property
    def folder(self) -> Path:
        """The folder of the table."""
        return Path(self.log_dir)

    @rank_zero_only
    def restore(self) -> None:
        """Open the table with the rows that an earlier start has left.

        They have another name until the new table is complete, so a crash here loses none.
        """
        file, earlier = self.folder / TABLE_NAME, self.folder / EARLIER_TABLE_NAME
        if file.is_file():
            os.replace(file, earlier)
        with warnings.catch_warnings(action="ignore"):  # it warns that it would remove the table
            writer = self.experiment
        if not earlier.is_file():
            return
        with earlier.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if self._is_kept(row)]
        if rows:
            writer.metrics_keys = sorted(rows[0])
            with atomic_write(file) as stream:
                table = csv.DictWriter(stream, writer.metrics_keys, lineterminator="\r\n")
                table.writeheader()
                table.writerows(rows)
        earlier.unlink()

    def _is_kept(self, row: dict[str, str]) -> bool:
        step = row.get(STEP_COLUMN) or ""  # a killed process may leave half a row at the end
        return step.isdigit() and int(step) < self._resume_step and None not in row.values()


def build_logger(config: Config, run: RunDir, resume_step: int) -> Logger:
    """Build the logger that the settings name, and log the settings to it.

    Args:
        config: the settings.
        run: where the logger writes.
        resume_step: this and later steps of an earlier start are hidden or removed; Weights &
            Biases keeps them.
    """
    logger: Logger
    match config.training.logger:
        case "tensorboard":
            logger = TensorBoardLogger(run.tensorboard, name="", version="", purge_step=resume_step)
            _log_to_hparams_table(logger, flat_settings(config))
            return logger
        case "csv":
            logger = MetricsTable(run.metrics, resume_step)
            logger.restore()
        case "wandb":
            run.wandb.mkdir(parents=True, exist_ok=True)
            location = str(run.path.resolve()).encode()
            logger = WandbLogger(
                name=config.run.name,
                save_dir=run.wandb,
                id=hashlib.sha256(location).hexdigest()[:16],  # of a resumed run the same
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
            )
    logger.log_hyperparams(flat_settings(config))
    return logger


def flush_logger(logger: Logger | None) -> None:
    """Write to disk what the logger has collected; Weights & Biases does so by itself."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.flush()
    elif isinstance(logger, MetricsTable):
        logger.save()


@rank_zero_only
def log_figure(logger: Logger | None, name: str, figure: Figure, step: int) -> None:
    """Log a picture; beside a table it is `images/NAME/step=000500.png`."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
    elif isinstance(logger, MetricsTable):
        file = logger.folder / "images" / name / f"step={step:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120)
    elif isinstance(logger, WandbLogger):
        image = BytesIO()
        figure.savefig(image, dpi=120)
        logger.log_image(name, [Image.open(image)], step)


def flat_settings(config: Config) -> dict[str, bool | int | float | str]:
    """Return all settings by their full names, `training.learning_rate.llm`."""

    def flatten(section: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in section.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(flatten(asdict(config), ""))


@rank_zero_only
def _log_to_hparams_table(logger: TensorBoardLogger, settings: dict[str, Any]) -> None:
    """Show the settings in TensorBoard's table of runs, beside `COMPARED_METRIC`.

    Lightning's logger would write a value of this metric, too, before there is one.
    """
    from torch.utils.tensorboard.summary import hparams  # importing it takes time; few runs need it

    for summary in hparams(settings, {COMPARED_METRIC: 0.0}):
        logger.experiment.file_writer.add_summary(summary)
