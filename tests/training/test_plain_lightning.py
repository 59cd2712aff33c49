"""The module and the data module with a Trainer, checkpoint and script that know nothing of this
project's callbacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.lightning_state import TESTED_VERSIONS
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch
from tests import REPOSITORY
from tests.helpers.toy_run import (
    NUM_STEPS,
    StoppedError,
    TrainedRun,
    load_weights,
    max_abs_difference,
)


class LossRecorder(Callback):
    """Records the positions and the loss of each micro-batch, and may stop the run after some of
    them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.batches: list[tuple[tuple[int, ...], float]] = []
        self._stop_after = stop_after

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.batches.append((tuple(batch.positions), float(outputs["loss"])))
        if len(self.batches) == self._stop_after:
            raise StoppedError


def fit_plainly(
    trained: TrainedRun, folder: Path, recorder: LossRecorder, checkpoint: Path | None = None
) -> HourLLaVAModule:
    """Train the finished run's model again, as a script without `lit_hour.training.fit` does."""
    config = trained.config
    L.seed_everything(config.run.seed)
    tokenizer = load_tokenizer(trained.run.tokenizer)
    data = VideoQADataModule(config, HourLLaVAProcessor(tokenizer, config.text))
    module = HourLLaVAModule(config, len(tokenizer), data.num_steps)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=data.num_steps,
        accumulate_grad_batches=data.micro_batches_per_step(num_ranks=1),
        gradient_clip_val=config.training.gradient_clip_norm,
        callbacks=[recorder, ModelCheckpoint(folder, every_n_train_steps=1)],
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore")
def test_plain_trainer_resumes_weights_and_samples_bit_for_bit(
    trained: TrainedRun, tmp_path: Path
) -> None:
    whole = LossRecorder()
    module = fit_plainly(trained, tmp_path / "whole", whole)
    expected = load_weights(trained.run)
    assert max_abs_difference(module.state_dict(), expected) == 0
    assert [batch[0] for batch in whole.batches] == [(n,) for n in range(2 * NUM_STEPS)]

    stopped = LossRecorder(stop_after=7)  # in the middle of the fourth step
    with pytest.raises(StoppedError):
        fit_plainly(trained, tmp_path / "stopped", stopped)
    (own_checkpoint,) = (tmp_path / "stopped").glob("*.ckpt")
    for checkpoint in (own_checkpoint, trained.run.checkpoint("step=000004")):
        step = torch.load(checkpoint, weights_only=True)["global_step"]
        resumed = LossRecorder()
        module = fit_plainly(trained, tmp_path / "resumed", resumed, checkpoint)
        assert resumed.batches == whole.batches[2 * step :], checkpoint
        assert max_abs_difference(module.state_dict(), expected) == 0, checkpoint


SCRIPT = """
import sys, torch
from lit_hour.training.module import HourLLaVAModule

module = HourLLaVAModule.load_from_checkpoint(sys.argv[1], weights_only=True)
weights = torch.load(sys.argv[1], weights_only=True)["state_dict"]
assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())
print(module.config.run.name, module.num_steps, len(weights))
"""


@pytest.mark.slow
def test_checkpoint_loads_in_a_plain_script(trained: TrainedRun, tmp_path: Path) -> None:
    """A process of its own in another folder: the checkpoint brings settings and sizes."""
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT, trained.run.checkpoint("best").resolve()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.split() == [
        trained.config.run.name,
        str(NUM_STEPS),
        str(len(load_weights(trained.run))),
    ]


def test_lightning_version_is_one_that_lightning_state_was_tested_with() -> None:
    assert L.__version__ in TESTED_VERSIONS, (
        f"lightning {L.__version__}: run tests/training and tests/slurm with it, check"
        " lit_hour/training/lightning_state.py, then add it to TESTED_VERSIONS there"
    )
