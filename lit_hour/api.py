"""Training and answering from Python: `from lit_hour import fit, load`."""

from __future__ import annotations

from pathlib import Path

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.synthetic.packing import build_and_pack
from lit_hour.training import fit as fitting
from lit_hour.training.fit import FitResult


def fit(config: Config | Path | str, *overrides: str) -> FitResult:
    """Train a run, or resume it, as `python train.py -c FILE key=value` does.

    Synthetic videos are made first if the settings name any and they are missing.

    Args:
        config: settings, or the YAML file with them.
        overrides: `key=value` settings that override those of a file.

    Returns:
        The run's directory, its last step and the scores of its last validation.

    Raises:
        InputError: a setting, file or run cannot be used, or another process trains the run.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides)
    elif overrides:
        raise TypeError("Overrides belong to a file. Change the Config with dataclasses.replace.")
    if config.synthetic.num_videos:
        build_and_pack(config)
    return fitting.fit(config)


def load(
    run: Path | str, checkpoint: str | None = None, device: str | None = None, *overrides: str
) -> VideoPredictor:
    """Load a trained run, to ask it questions.

    Args:
        run: folder that training or `lit-hour convert` wrote.
        checkpoint: a name in `RUN/checkpoints`; the best one by default.
        device: "cpu" or "cuda"; a GPU if there is one by default.
        overrides: `key=value` settings that override those of the run.

    Raises:
        InputError: there is no such run, or it cannot be used.
    """
    return VideoPredictor.from_run(Path(run), checkpoint, device, overrides)
