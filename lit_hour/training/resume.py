"""A run folder and the settings of a new start -> the checkpoint to go on from, or the settings that do not fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lit_hour.config.load import config_to_dict, load_config
from lit_hour.config.schema import Config
from lit_hour.errors import RunError
from lit_hour.locked import locked
from lit_hour.run import RunFolder
from lit_hour.training.sharded_files import mend
from lit_hour.weights import read_checkpoint


def newest_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint of this run with the most steps behind it.

    Of several at one step it is the best one: it was saved last, after a validation whose loss the others do not know.

    Raises:
        RunError: the folder holds a converted model, which training would leave lying there unused.
    """
    if run.checkpoints.is_dir():
        with locked(run.path):  # ranks start at once
            mend(run.checkpoints)
    files = list(run.checkpoints.glob("*.ckpt"))
    if not files and any(each.is_dir() and not each.suffix for each in run.checkpoints.glob("*")):
        raise RunError(
            f"{run.path} holds a converted model: start another run from it with run.name=NAME training.start_from={run.path}"
        )
    steps = {file: read_checkpoint(file)["global_step"] for file in files}
    return max(files, key=lambda file: (steps[file], file.stem == "best", file.stem == "last"), default=None)


def continuing_config(config: Config, checkpoint: Path) -> Config:
    """The settings with which a checkpoint goes on; where its first weights came from is not looked at again.

    Raises:
        RunError: the checkpoint is of another model, optimizer or beginning; it names every setting of them that differs.
    """
    before = load_config(checkpoint.with_suffix(".yaml"))
    if config.training.start_from or config.model.language.folder:
        sizes = replace(before.model.language, folder=config.model.language.folder, lora=config.model.language.lora)
        config = replace(config, model=replace(config.model, language=sizes))
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


def _fixed_settings(config: Config) -> dict:
    """What a run cannot change on the way: the model, the words, its beginning, and what the optimizer's state brings."""
    settings = config_to_dict(config)
    del settings["model"]["vision"]["chunk_frames"]  # a matter of speed
    training = {name: settings["training"][name] for name in ("start_from", "learning_rate", "weight_decay")}
    return {"model": settings["model"], "text": settings["text"], "training": training}


def _differences(before: dict, now: dict, prefix: str) -> list[tuple[str, object, object]]:
    found = []
    for key, old in before.items():
        if isinstance(old, dict):
            found += _differences(old, now[key], f"{prefix}{key}.")
        elif old != now[key]:
            found.append((f"{prefix}{key}", old, now[key]))
    return found
