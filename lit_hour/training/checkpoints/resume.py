"""Find the checkpoint that a run resumes from, and check that the settings still fit it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from lit_hour.config.diff import describe_changes
from lit_hour.config.load import load_config
from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.errors import RunError, WeightsError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.checkpoint_io import step_of_checkpoint
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import check_state_dict, optional_weights

FIXED_TRAINING_SETTINGS = (
    "init_from",
    "save_weights",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_eps",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """The state from which a run starts.

    Attributes:
        checkpoint: None for a new run.
        step: number of finished optimizer steps.
        description: which checkpoint it is, and why.
    """

    checkpoint: Path | None
    step: int
    description: str


def find_resume_point(run: RunDir) -> ResumePoint:
    """Return the intact checkpoint with the most steps, or the start of a new run.

    Among checkpoints of the same step `best` is preferred: it was saved last, after a validation
    whose loss the others do not know. A checkpoint is written atomically, so a corrupt one is the
    fault of a disk; it is skipped with a warning.

    Raises:
        RunError: every checkpoint is corrupt, or the folder holds a converted model, which training
            would not use.
    """
    files = sorted(run.checkpoints.glob("*.ckpt"))
    if not files:
        if any(path.is_dir() and not path.suffix for path in run.checkpoints.glob("*")):
            raise RunError(
                f"{run.path} holds a converted model. Start another run from it with run.name=NAME"
                f" training.init_from={run.path}"
            )
        reason = f"there is no checkpoint in {run.checkpoints}"
        return ResumePoint(None, 0, f"starts from the beginning: {reason}")
    steps, errors = {}, []
    for file in files:
        try:
            steps[file] = step_of_checkpoint(file)
        except WeightsError as error:
            errors.append(str(error))
    if not steps:
        raise RunError(
            f"Every checkpoint of {run.path} is corrupt ({'; '.join(errors)}). Restore a copy of"
            " one, or delete them to start over"
        )
    newest = max(steps, key=lambda file: (steps[file], file.stem == "best", file.stem == "last"))
    if errors:
        log.warning(
            "%s. The checkpoint was complete when it was written, so check the disk. Resuming from"
            " %s (step %d), the newest intact checkpoint.",
            "; ".join(errors),
            newest,
            steps[newest],
        )
    description = f"resumes from {newest}, step {steps[newest]}: the newest of {len(steps)}"
    return ResumePoint(newest, steps[newest], description)


def config_for_resume(config: Config, checkpoint: Path) -> Config:
    """Return the settings for resuming from a checkpoint.

    The checkpoint gives the sizes of the language model. The pretrained weights are opened again
    only for those that the checkpoint leaves out (`training.save_weights`).

    Raises:
        RunError: the checkpoint was created with a different model, optimizer or initialization, or
            has no settings beside it. The message names every setting that differs.
    """
    file = checkpoint.with_suffix(".yaml")
    if not file.is_file():
        raise RunError(
            f"{checkpoint} has no settings beside it. Restore {file.name}, or delete the checkpoint"
        )
    saved = load_config(file)
    if config.training.init_from or config.model.llm.path:
        language = replace(
            saved.model.llm,
            path=config.model.llm.path,
            lora=_wanted_lora(saved.model.llm.lora, config.model.llm.lora),
            quantize=config.model.llm.quantize,
        )
        config = replace(config, model=replace(config.model, llm=language))
    changes = describe_changes(_fixed_settings(saved), _fixed_settings(config))
    if changes:
        raise RunError(
            f"{checkpoint} was created with a different model, optimizer or initialization:"
            f" {'; '.join(changes)}. Set these back, or start another run with run.name=NAME"
        )
    return config


def check_weights(model: nn.Module, checkpoint: Path, config: Config) -> None:
    """Compare the shapes of a checkpoint's weights with the model before training begins.

    Raises:
        WeightsError: a weight is missing, unexpected or of another shape, so the file belongs to
            another run. The message names every such weight.
    """
    check_state_dict(
        model.state_dict(),
        open_run_weights(checkpoint, config).meta_tensors,
        f"{checkpoint} does not belong to {checkpoint.stem}.yaml, restore the file that does: it",
        optional=optional_weights(config),
    )


def _wanted_lora(saved: LoraConfig, wanted: LoraConfig) -> LoraConfig:
    """Return the wanted adapters, with the sizes that their folder has given at the start."""
    if not wanted.path:
        return wanted
    sizes = ("rank", "alpha", "targets", "use_dora", "use_rslora")
    return replace(wanted, **{name: getattr(saved, name) for name in sizes})


def _fixed_settings(config: Config) -> dict:
    """Return the settings that a run cannot change: model, text, initialization and optimizer."""
    settings = asdict(config)
    del settings["model"]["vision"]["encode_batch_size"]  # affects speed only
    del settings["model"]["memaug"]["shard_memory"]  # affects answers of several processes only
    training = {name: settings["training"][name] for name in FIXED_TRAINING_SETTINGS}
    return {"model": settings["model"], "text": settings["text"], "training": training}
