"""Validation answers -> pictures in TensorBoard: what was seen, with the question, the true answer and the model's."""

from __future__ import annotations

import textwrap
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor

from lit_hour.training.module import Prediction
from lit_hour.types import Batch, Frames, ImageSet, TiledImage

FRAMES_SHOWN = 8


class ValidationPictures(Callback):
    """Shows one question of each of the first videos of a validation, a different one each time."""

    def __init__(self, num_pictures: int) -> None:
        self._num_pictures = num_pictures
        self._num_validations = 0
        self._drawn: dict[int, Figure] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with none."""
        self._drawn = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw one picture of this video."""
        if (
            batch_idx >= self._num_pictures
            or trainer.sanity_checking
            or not trainer.is_global_zero
            or not outputs
        ):
            return
        said: Prediction = outputs[self._num_validations % len(outputs)]
        visual = batch.visuals[said.visual]
        if isinstance(visual, Frames | TiledImage | ImageSet):
            self._drawn[batch_idx] = draw_answer(visual, batch.keys[said.visual], said)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them beside the scores, at the step that these count as; the next validation shows other questions.

        A validation that is stopped shows none: it is done again.
        """
        for batch_idx, figure in self._drawn.items():
            step = max(0, trainer.global_step - 1)
            trainer.logger.experiment.add_figure(f"validation/{batch_idx}", figure, step)  # type: ignore[union-attr]
        self._num_validations += not trainer.sanity_checking


def draw_answer(visual: Frames | TiledImage | ImageSet, key: str, said: Prediction) -> Figure:
    """A strip of frames or pictures, and over it what was asked, what is true and what the model said."""
    images, titles = pictures_of(visual)
    figure = Figure(figsize=(12, 3.0), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(image.permute(1, 2, 0).cpu().numpy())  # (height, width, 3)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    question = said.question
    truth = f"{question.answer_letter}. {question.answer}" if question.options else question.answer
    verdict = "right" if said.is_right else "wrong"
    asked = textwrap.fill(" / ".join([question.question, *question.options]), 130)
    figure.suptitle(
        f"{key}   {question.task}\n{asked}\ntrue answer: {truth}     model: {said.text.strip() or '(nothing)'}  ({verdict})",
        fontsize=10,
        ha="left",
        x=0.01,
        parse_math=False,  # a question may be about dollars
    )
    return figure


def pictures_of(visual: Frames | TiledImage | ImageSet) -> tuple[Tensor, list[str]]:
    """`(shown, 3, height, width)` with a title each: frames with their times, a picture as a whole, or several pictures."""
    if isinstance(visual, TiledImage):
        height, width = visual.size_pixels
        return visual.tiles[:1], [f"{width} x {height} pixels"]
    places = np.unique(np.linspace(0, len(visual) - 1, FRAMES_SHOWN).astype(int))  # (shown,)
    if isinstance(visual, ImageSet):
        return visual.images[places], [str(place + 1) for place in places]
    return visual.images[places], [format_time(float(visual.timestamps[place])) for place in places]


def format_time(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
