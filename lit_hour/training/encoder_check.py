"""The model and the features of a run, before its first step -> nothing, or an error: another vision encoder made them."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_hour.errors import WeightsError


class EncoderCheck(Callback):
    """Compares the weights of the model's vision encoder with those that encoded the data, once, when they are in place.

    The settings were compared before, when the data were opened. A run without features does not compute anything here.

    Raises:
        WeightsError: they differ.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The weights of the start or of the checkpoint are there."""
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation without training; in a run the weights have stayed what they were, for only frozen ones are let in."""
        if not trainer.training and not trainer.validating:
            self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        encodings = trainer.datamodule.encodings  # type: ignore[attr-defined]
        if not encodings:
            return
        digest = pl_module.model.vision.digest()  # type: ignore[union-attr, operator]
        for place, encoding in encodings.items():
            if encoding.weights != digest:
                raise WeightsError(
                    f"the features in {place} were encoded by a vision encoder with other weights than this run's (SHA-256"
                    f" {encoding.weights[:12]}, this run {digest[:12]}): encode again with this run's encoder (python -m lit_hour"
                    " encode SOURCE TARGET, with the same .yaml file and settings or --run), or start from the run that encoded"
                    " them (training.start_from)"
                )
