"""The random generators that a training step passes to the model."""

from unittest.mock import Mock, patch

from torch import Generator

from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch


def forgetting_generators(module: HourLLaVAModule, batch: Batch) -> list[Generator]:
    """Return the generators of `training_step`, without running the model."""
    with patch.object(module.model, "forward", Mock()) as forward:
        module.training_step(batch, 0)
    generators: list[Generator] = forward.call_args.args[1]
    return generators
