"""A run folder and the settings of a new start -> the checkpoint to go on from, or the settings that do not fit it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lit_hour.config.load import config_to_dict, load_config
from lit_hour.config.schema import Config
from lit_hour.errors import RunError, WeightsError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.checkpoint_io import step_of_checkpoint
from lit_hour.weights.name_map import optional_weights
from lit_hour.weights.reader import check_state_dict, open_weights, shapes_of

log = logging.getLogger("lit_hour")


@dataclass(frozen=True)
class ResumePoint:
    """Where a start of a run begins.

    Attributes:
        checkpoint: None for the beginning of the run.
        step: optimizer steps that are done.
        reason: why it is this one.
    """

    checkpoint: Path | None
    step: int
    reason: str

    def __str__(self) -> str:
        place = (
            f"continues from {self.checkpoint}, step {self.step}"
            if self.checkpoint
            else "starts from the beginning"
        )
        return f"{place}: {self.reason}"


def find_resume_point(run: RunDir) -> ResumePoint:
    """The whole checkpoint of this run with the most steps behind it, or the beginning when there is no checkpoint.

    Of several at one step it is the best one: it was saved last, after a validation whose loss the others do not know.
    A checkpoint is complete or absent, so one that is damaged is the fault of a disk: it is passed over with a warning.

    Raises:
        RunError: no checkpoint is whole, or the folder holds a converted model, which training would leave lying there unused.
    """
    files = sorted(run.checkpoints.glob("*.ckpt"))
    if not files:
        if run.checkpoints.is_dir() and any(
            each.is_dir() and not each.suffix for each in run.checkpoints.iterdir()
        ):
            raise RunError(
                f"{run.path} holds a converted model: start another run from it with run.name=NAME"
                f" training.init_from={run.path}"
            )
        return ResumePoint(None, 0, f"there is no checkpoint in {run.checkpoints}")
    steps, damaged = _steps_of(files)
    if not steps:
        raise RunError(
            f"no checkpoint of {run.path} is whole ({'; '.join(damaged)}): put back a copy of one, or delete them to start over"
        )
    newest = max(steps, key=lambda file: (steps[file], file.stem == "best", file.stem == "last"))
    if damaged:
        log.warning(
            "warning: %s. A checkpoint is complete when it gets its name, so its disk lost part of it: look after the disk."
            " The run goes on from %s, step %d, the newest that is whole",
            "; ".join(damaged),
            newest,
            steps[newest],
        )
    return ResumePoint(newest, steps[newest], f"the newest of {len(steps)}")


def _steps_of(files: list[Path]) -> tuple[dict[Path, int], list[str]]:
    """The step of each checkpoint that is whole, and what is wrong with each of the others."""
    steps, damaged = {}, []
    for file in files:
        try:
            steps[file] = step_of_checkpoint(file)
        except WeightsError as error:
            damaged.append(str(error))
    return steps, damaged


def config_for_resume(config: Config, checkpoint: Path) -> Config:
    """The settings with which a checkpoint goes on; where its first weights came from is not looked at again.

    Raises:
        RunError: the checkpoint is of another model, optimizer or beginning; it names every setting of them that differs. Or
            it has no settings beside it.
    """
    settings = checkpoint.with_suffix(".yaml")
    if not settings.is_file():
        raise RunError(
            f"{checkpoint} has no settings beside it: put {settings.name} back, or delete the checkpoint"
        )
    before = load_config(settings)
    if config.training.init_from or config.model.llm.path:
        sizes = replace(
            before.model.llm,
            path=config.model.llm.path,
            lora=config.model.llm.lora,
        )
        config = replace(config, model=replace(config.model, llm=sizes))
    differences = [
        f"{name} was {old!r}, is {new!r}"
        for name, old, new in _differences(_fixed_settings(before), _fixed_settings(config), "")
    ]
    if differences:
        raise RunError(
            f"{checkpoint} belongs to another model, optimizer or beginning: {'; '.join(differences)}."
            " Set these back, or give the run another name with run.name=NAME"
        )
    return config


def check_weights(model: nn.Module, checkpoint: Path, config: Config) -> None:
    """Look at a checkpoint's weights before training begins: a file that was put there may be of another run.

    Raises:
        WeightsError: it names every weight that is missing, left over or of another shape.
    """
    origin = (
        f"{checkpoint} is not the one that {checkpoint.stem}.yaml belongs to, put that back: it"
    )
    check_state_dict(
        shapes_of(model.state_dict()),
        open_weights(checkpoint).shapes,
        origin,
        optional=optional_weights(config),
    )


def _fixed_settings(config: Config) -> dict:
    """What a run cannot change on the way: the model, the words, its beginning, and what the optimizer's state brings."""
    settings = config_to_dict(config)
    del settings["model"]["vision"]["encode_batch_size"]  # a matter of speed
    training = {
        name: settings["training"][name] for name in ("init_from", "learning_rate", "weight_decay")
    }
    return {"model": settings["model"], "text": settings["text"], "training": training}


def _differences(before: dict, now: dict, prefix: str) -> list[tuple[str, object, object]]:
    found = []
    for key, old in before.items():
        if isinstance(old, dict):
            found += _differences(old, now[key], f"{prefix}{key}.")
        elif old != now[key]:
            found.append((f"{prefix}{key}", old, now[key]))
    return found
