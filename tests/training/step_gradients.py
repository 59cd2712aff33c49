"""The loss and the gradients of a step, computed without a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import Mock

from torch import Tensor

from lit_hour.processor import HourLLaVAProcessor
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch


def stand_in_trainer(processor: HourLLaVAProcessor) -> Mock:
    """Return what a module of one process needs of Lightning's Trainer."""
    return Mock(
        datamodule=Mock(processor=processor),
        strategy=Mock(reduce=lambda tensor, reduce_op: tensor),
        world_size=1,
        accumulate_grad_batches=1,
        global_step=0,
        log_every_n_steps=50,
    )


def loss_and_gradients(
    module: HourLLaVAModule, batches: Sequence[Batch]
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients of a step, as Lightning accumulates them."""
    module.zero_grad()
    module.trainer.accumulate_grad_batches = len(batches)
    for index, batch in enumerate(batches):
        (module.training_step(batch, index)["loss"] / len(batches)).backward()
    module.on_before_optimizer_step(Mock())
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return float(module.step_loss), gradients
