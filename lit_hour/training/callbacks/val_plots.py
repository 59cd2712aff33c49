"""Plot validation answers with their frames, and the accuracy by video length and depth."""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor

from lit_hour.data.features.source_frames import SourceFrames
from lit_hour.errors import InputError
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.text.timestamp import format_timestamp
from lit_hour.training.loggers import log_figure
from lit_hour.training.metrics import LENGTHS_MINUTES, NUM_DEPTHS
from lit_hour.training.module import Prediction
from lit_hour.types import Batch, Features, Frames, ImageSet, TiledImage

MAX_FRAMES = 8  # in a strip

log = logging.getLogger(__name__)


class ValidationPlots(Callback):
    """Plots answers and the haystack accuracy of each validation, to the logger.

    One answer is plotted for each of the first `num_videos` videos, to a different question each
    time. The haystack heat map is also written to `haystack_file`; there is none if no question has
    its evidence in one short interval.
    """

    def __init__(self, num_videos: int, haystack_file: Path, source_frames: SourceFrames) -> None:
        """Take the number of videos, the file of the heat map, and the frames of features."""
        self._num_videos, self._haystack_file = num_videos, haystack_file
        self._source_frames, self._has_warned = source_frames, False
        self._num_validations = 0
        self._figures: dict[int, Figure] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the figures of a validation that was interrupted."""
        self._figures = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Plot one answer about this video."""
        is_skipped = trainer.sanity_checking or not trainer.is_global_zero or not outputs
        if is_skipped or batch_idx >= self._num_videos:
            return
        prediction: Prediction = outputs[self._num_validations % len(outputs)]
        visual, key = batch.visuals[prediction.visual_index], batch.keys[prediction.visual_index]
        if isinstance(visual, Features):
            visual = self._read_frames(visual, key)
        if visual is not None:
            self._figures[batch_idx] = plot_answer(visual, key, prediction)

    def _read_frames(self, features: Features, key: str) -> Frames | None:
        """Read the frames to show again from the source of the features; warn if it is gone."""
        try:
            return self._source_frames.read(key, features, _shown_indices(len(features)))
        except InputError as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning("Validation shows no frames of videos stored as features: %s", error)
            return None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the figures at the step of the scores."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        step = max(0, trainer.global_step - 1)
        for batch_idx, figure in self._figures.items():
            log_figure(trainer.logger, f"val/answers/{batch_idx}", figure, step)
        self._num_validations += 1
        counts: Tensor = pl_module.haystack_counts  # type: ignore[assignment]
        if counts.any():
            figure = plot_haystack(counts)
            figure.savefig(self._haystack_file, dpi=120)
            log_figure(trainer.logger, "val/haystack", figure, step)


def plot_answer(visual: Frames | TiledImage | ImageSet, key: str, prediction: Prediction) -> Figure:
    """Plot a strip of frames or images under the question, the true answer and the model's."""
    images, titles = _select_images(visual)
    figure = Figure(figsize=(12, 3.0), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(image.permute(1, 2, 0).cpu().numpy())  # (height, width, 3)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    question = prediction.question
    truth = f"{question.answer_letter}. {question.answer}" if question.options else question.answer
    answer = prediction.text.strip() or "(nothing)"
    verdict = "right" if prediction.is_correct else "wrong"
    text = textwrap.fill(" / ".join([question.question, *question.options]), 130)
    figure.suptitle(
        f"{key}   {question.task}\n{text}\ntrue answer: {truth}     model: {answer}  ({verdict})",
        fontsize=10,
        ha="left",
        x=0.01,
        parse_math=False,  # a question may contain dollar signs
    )
    return figure


def plot_haystack(counts: Tensor) -> Figure:
    """Plot accuracy as a heat map with one column for each video length that has questions.

    Args:
        counts: questions and correct answers, `(2, lengths, depths)`.
    """
    total, correct = counts.cpu().float()  # (lengths, depths) each
    lengths = total.sum(dim=1).nonzero()[:, 0].tolist()  # those with questions
    accuracy = (correct / total)[lengths].T  # (depths, lengths shown); NaN without questions
    figure = Figure(figsize=(2.2 + 0.9 * len(lengths), 4.6), layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(accuracy.numpy(), vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for column, length in enumerate(lengths):
        for depth in range(NUM_DEPTHS):
            if total[length, depth]:
                text = f"{accuracy[depth, column]:.0%}"
                axes.text(column, depth, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(
        range(len(lengths)),
        [
            f"{LENGTHS_MINUTES[length]:g}\n{correct[length].sum() / total[length].sum():.0%}"
            for length in lengths
        ],
    )
    axes.set_xlabel("video length: up to ... minutes, and the accuracy over all depths")
    axes.set_yticks(range(NUM_DEPTHS), [f"{10 * depth}%" for depth in range(NUM_DEPTHS)])
    axes.set_ylabel("depth: start of the evidence in the video")
    figure.colorbar(heat, format=lambda share, _: f"{share:.0%}")
    figure.suptitle(f"accuracy over {total.sum():.0f} answers", fontsize=10)
    return figure


def _select_images(visual: Frames | TiledImage | ImageSet) -> tuple[Tensor, list[str]]:
    """Return up to `MAX_FRAMES` images `(shown, 3, height, width)` and a title for each."""
    if isinstance(visual, TiledImage):
        height, width = visual.size_pixels
        return visual.tiles[:1], [f"{width} x {height} pixels"]
    indices = _shown_indices(len(visual))
    if isinstance(visual, ImageSet):
        return visual.images[indices], [str(index + 1) for index in indices]
    times = [format_timestamp(float(visual.timestamps[index])) for index in indices]
    return visual.images[indices], times


def _shown_indices(num_images: int) -> list[int]:
    return evenly_spaced_indices(num_images, min(num_images, MAX_FRAMES), "linspace")
