"""The model and the features of a run, before its first step -> nothing, or an error: another vision encoder made them."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_hour.errors import WeightsError


class FeatureEncoderCheck(Callback):
    """Compares the vision encoder's weights with those that encoded the data, once they are in place.

    Settings were compared before, when the data were opened. One look is enough, for only a frozen encoder gets that far. A run
    without features computes nothing here.

    Raises:
        WeightsError: they differ.
    """

    def __init__(self) -> None:
        self._is_done = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the first step."""
        self._look(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before a validation without training."""
        self._look(trainer, pl_module)

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        encodings = trainer.datamodule.encodings  # type: ignore[attr-defined]
        if self._is_done or not encodings:
            return
        digest = pl_module.model.vision.digest()  # type: ignore[union-attr, operator]
        for shard, encoding in encodings.items():
            if encoding.weights != digest:
                raise WeightsError(
                    f"the features in {shard} are of a vision encoder with other weights than this run's (SHA-256"
                    f" {encoding.weights[:12]}, this run's {digest[:12]}): encode again with this run's encoder, by python -m"
                    " lit_hour encode SOURCE TARGET and the .yaml file of this run, or its --run; or start from the run that"
                    " encoded them (training.init_from)"
                )
        self._is_done = True
