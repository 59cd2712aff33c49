"""The random generators that a training step passes to the model."""

from contextlib import suppress
from unittest.mock import Mock, patch

from torch import Generator

from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch


def forgetting_generators(module: HourLLaVAModule, batch: Batch) -> list[Generator]:
    """Return the generators of `training_step`, without running the model."""
    stop = Mock(side_effect=InterruptedError)
    with patch.object(module.model, "forward", stop) as forward, suppress(InterruptedError):
        module.training_step(batch, 0)
    generators: list[Generator] = forward.call_args.args[1]
    return generators
