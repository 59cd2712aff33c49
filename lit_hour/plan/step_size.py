"""The share of an optimizer step that each rank computes."""

from __future__ import annotations

from lit_hour.config.schema import Config
from lit_hour.data.sample_order import micro_batches_per_step
from lit_hour.data.token_batches import batches_per_rank


def micro_batches(config: Config, num_ranks: int) -> int:
    """Return the micro-batches of a rank in a step.

    Raises:
        ConfigError: the ranks cannot share a step.
    """
    data = config.data
    if data.tokens_per_batch:
        return batches_per_rank(data.batches_per_step, num_ranks)
    return micro_batches_per_step(data.global_batch_size, data.micro_batch_size, num_ranks)
