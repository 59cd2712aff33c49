"""Every use of Lightning's private loop state, for the versions in `TESTED_VERSIONS`.

A checkpoint holds the progress of Lightning's loops, counted in micro-batches. The number of
micro-batches per step may change between two starts of a run, and a validation may have been
interrupted. Lightning has no public interface for either, so these functions edit the progress in
the checkpoint before the loops load it.
"""

from __future__ import annotations

from typing import Any

import lightning as L

TESTED_VERSIONS = ("2.6.6",)


def move_to_end_of_step(checkpoint: dict[str, Any], micro_batches_per_step: int) -> None:
    """Set the loops' progress to the end of the last micro-batch of the checkpoint's step.

    From there Lightning continues with the next step, without another validation, and the steps in
    TensorBoard have no gap.

    Args:
        checkpoint: the checkpoint's content; changed in place.
        micro_batches_per_step: `Trainer.accumulate_grad_batches` of this start.
    """
    step = checkpoint["global_step"]
    num_batches = step * micro_batches_per_step
    progress = {
        "ready": num_batches,
        "started": num_batches,
        "processed": num_batches,
        "completed": num_batches - 1,
    }
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_loop.batch_progress"] = {
        "total": dict(progress),
        "current": dict(progress),
        "is_last_batch": False,
    }
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1


def restart_validation(checkpoint: dict[str, Any]) -> None:
    """Start with the validation after the checkpoint's step, as if stopped in its first batch.

    Call this after `move_to_end_of_step`.
    """
    progress = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_loop.val_loop.batch_progress"] |= {
        "total": dict(progress),
        "current": dict(progress),
        "is_last_batch": False,
    }
    # Lightning counts the step when it restarts, and again after the validation.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def has_trainer(module: L.LightningModule) -> bool:
    """Return whether a Trainer runs the module; `load_from_checkpoint` has none."""
    return module._trainer is not None
