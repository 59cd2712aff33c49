"""Refuse precomputed features that come from another vision encoder than the run's."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_hour.data.features.format import FeatureMetadata
from lit_hour.errors import WeightsError


class FeatureEncoderCheck(Callback):
    """Compares the SHA-256 of the vision encoder's weights with the one stored with the features.

    The settings were compared when the data was opened. Only a frozen encoder gets this far, so one
    check is enough.

    Raises:
        WeightsError: the digests differ.
    """

    def __init__(self, metadata: dict[str, FeatureMetadata]) -> None:
        """Take the metadata of the features that the run reads, by the path of their shard."""
        self._metadata = metadata

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the first step."""
        self._check(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before a validation without training."""
        self._check(pl_module)

    def _check(self, pl_module: L.LightningModule) -> None:
        if not self._metadata:
            return
        digest = pl_module.model.vision.digest()  # type: ignore[union-attr, operator]
        for shard, features in self._metadata.items():
            if features.encoder_sha256 != digest:
                raise WeightsError(
                    f"The features in {shard} were extracted with other vision encoder weights"
                    f" (SHA-256 {features.encoder_sha256[:12]}) than this run's ({digest[:12]})."
                    " Extract them again with `lit-hour extract-features SOURCE TARGET` and this"
                    " run's .yaml file or --run, or start from the run that extracted them"
                    " (training.init_from)"
                )
        self._metadata = {}
