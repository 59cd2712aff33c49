"""Refuse precomputed features that come from another vision encoder than the run's."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_hour.errors import WeightsError


class FeatureEncoderCheck(Callback):
    """Compares the SHA-256 of the vision encoder's weights with the one stored with the features.

    The settings were compared when the data was opened. Only a frozen encoder gets this far, so one
    check is enough. Without features nothing is computed.

    Raises:
        WeightsError: the digests differ.
    """

    def __init__(self) -> None:
        self._is_done = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the first step."""
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before a validation without training."""
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        encodings = trainer.datamodule.feature_metadata  # type: ignore[attr-defined]
        if self._is_done or not encodings:
            return
        digest = pl_module.model.vision.digest()  # type: ignore[union-attr, operator]
        for shard, encoding in encodings.items():
            if encoding.encoder_sha256 != digest:
                raise WeightsError(
                    f"The features in {shard} were extracted with other vision encoder weights"
                    f" (SHA-256 {encoding.encoder_sha256[:12]}) than this run's ({digest[:12]}). Extract them"
                    " again with `python -m lit_hour extract-features SOURCE TARGET` and this run's .yaml file or"
                    " --run, or start from the run that extracted them (training.init_from)"
                )
        self._is_done = True
