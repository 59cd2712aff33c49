"""A run's checkpoint, or the settings of a new run -> its vision encoder alone."""

from __future__ import annotations

from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from lit_hour.interop.start import open_start
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights import check_fit, load_into, open_weights, shapes_of

PREFIX = "vision."  # of the encoder's weights in a model


def load_encoder(config: Config, checkpoint: Path | None = None) -> VisionEncoder:
    """The vision encoder with the weights of a checkpoint; without one, with those that the settings start from.

    Raises:
        ConfigError: the settings name no weights, or `video.size_pixels` is not what the encoder takes.
        WeightsError, RunError: the weights are missing or damaged, or belong to another encoder.
    """
    stored = open_weights(checkpoint) if checkpoint else open_start(config)
    names = {name for name in (stored.outlines if stored else ()) if name.startswith(PREFIX)}
    if stored is None or not names:
        raise ConfigError(
            "these settings name no weights for the vision encoder, and what random ones see means nothing: give"
            " model.vision.weights or training.start_from, or a run with --run"
        )
    encoder = VisionEncoder(config.model.vision)
    if encoder.size_pixels != config.video.size_pixels:
        raise ConfigError(
            f"video.size_pixels={config.video.size_pixels}, but {config.model.vision.name} takes {encoder.size_pixels}:"
            f" set video.size_pixels={encoder.size_pixels}"
        )
    weights = stored.only(names).renamed(lambda name: name.removeprefix(PREFIX))
    check_fit(shapes_of(encoder.state_dict()), weights.shapes, f"the vision encoder of {stored.path}")
    load_into(encoder, weights.tensors())
    return encoder
