"""Accuracy of a run with the frames of its validation videos, with black ones, and with others.

    python -m tests.benchmarks.visual_shortcuts RUN [SETTING=VALUE ...]

With `text.mcq_format=letter` a run answers by letter, however it was trained.
What is answered correctly without the right frames is a shortcut. Another video's frames are those
of the validation video before, so the first one is left out of that column.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from lit_hour.config.load import load_config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.module import HourLLaVAModule, Prediction
from lit_hour.training.trainer_setup import readable_messages
from lit_hour.types import Batch, Frames, Visual

Shown = Literal["own", "black", "other"]


class ReplacedFrames(HourLLaVAModule):
    """Validates with frames that may not be the video's own.

    Attributes:
        shown: whose frames.
        previous: the visuals of the batch before.
    """

    shown: Shown = "own"
    previous: tuple[Visual | None, ...] = ()

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:  # type: ignore[override]
        """Replace the frames, and count the answers."""
        own, before = batch.visuals, self.previous
        self.previous = own
        if self.shown == "black":
            batch = replace(batch, visuals=tuple(blacken(visual) for visual in own))
        elif self.shown == "other":
            others = (*before[-1:], *own)[: len(own)]  # each video's predecessor
            if len(before) == 0:
                return []
            batch = replace(batch, visuals=others)
        return super().validation_step(batch, batch_idx)


def blacken(visual: Visual | None) -> Visual | None:
    """Return black frames at the same times."""
    assert isinstance(visual, Frames)
    return Frames(torch.zeros_like(visual.images), visual.timestamps)


def measure(run: RunDir, shown: Shown, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Return the accuracies of a run, 0 to 1, by the names of the training log.

    Args:
        run: a finished run.
        shown: whose frames.
        overrides: of the run's settings, such as "text.mcq_format=letter".
    """
    config = load_config(run.config, overrides)
    processor = HourLLaVAProcessor(load_tokenizer(run.tokenizer), config.text, config.model.memaug)
    data = VideoQADataModule(config, processor)
    module: Any = ReplacedFrames(
        config, len(processor.tokenizer), data.num_steps, weights_from_checkpoint=True
    )
    module.shown = shown
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    checkpoint = run.checkpoint("last")
    with readable_messages():
        (scores,) = trainer.validate(
            module, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True
        )
    return dict(scores)


def main(run: str, *overrides: str) -> None:
    """Print a table: a row for each accuracy, a column for each kind of frames."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    kinds: tuple[Shown, ...] = ("own", "black", "other")
    scores = {shown: measure(RunDir(Path(run)), shown, overrides) for shown in kinds}
    print("| | own frames | black frames | another video's frames |\n|---|---|---|---|")
    for name in scores["own"]:
        if name.startswith(("val/acc", "val/chance")):
            values = " | ".join(f"{scores[shown].get(name, 0):.1%}" for shown in kinds)
            print(f"| {name.removeprefix('val/').removeprefix('acc/')} | {values} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
