"""Validation answers -> pictures in TensorBoard: sampled frames with the question, the true answer and the model's."""

from __future__ import annotations

import textwrap
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from lit_hour.training.module import Said
from lit_hour.types import Batch, Frames

FRAMES_SHOWN = 8


class ValidationPictures(Callback):
    """Shows one question of each of the first videos of a validation, a different one each time."""

    def __init__(self, num_pictures: int) -> None:
        self._num_pictures = num_pictures
        self._num_validations = 0

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
        if batch_idx >= self._num_pictures or trainer.sanity_checking or not trainer.is_global_zero or not outputs:
            return
        said: Said = outputs[self._num_validations % len(outputs)]
        video = batch.videos[said.video]
        if isinstance(video, Frames):
            trainer.logger.experiment.add_figure(  # type: ignore[union-attr]
                f"validation/{batch_idx}", draw_answer(video, batch.keys[said.video], said), trainer.global_step
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The next validation shows other questions."""
        self._num_validations += not trainer.sanity_checking


def draw_answer(video: Frames, key: str, said: Said) -> Figure:
    """A strip of frames with their times, and under it what was asked, what is true and what the model said."""
    places = np.unique(np.linspace(0, len(video) - 1, FRAMES_SHOWN).astype(int))  # (shown,)
    figure = Figure(figsize=(12, 3.0), layout="constrained")
    axes = figure.subplots(1, len(places), squeeze=False)[0]
    for axis, place in zip(axes, places, strict=True):
        axis.imshow(video.images[place].permute(1, 2, 0).cpu().numpy())  # (height, width, 3)
        axis.set_title(format_time(float(video.timestamps[place])), fontsize=9)
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


def format_time(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
