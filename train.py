"""Train a run, or resume it: python train.py [-c FILE ...] [key=value ...]."""

import logging
import os
import sys
from collections.abc import Sequence

from lit_hour.config.arguments import CommandParser
from lit_hour.config.introspect import describe_settings
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import InputError
from lit_hour.run_dir import RunDir
from lit_hour.training.run_lease import hold_run
from lit_hour.training.signals import EXIT_INTERRUPTED, ShutdownSignal

DEFAULT_CONFIG = "conf/tiny.yaml"


def main(argv: Sequence[str], shutdown: ShutdownSignal | None = None) -> None:
    """Create synthetic videos if the settings name any, train, and print the next steps.

    Args:
        argv: the words after the program's name.
        shutdown: the handler of SLURM's signals, if it is installed.

    Raises:
        InputError: a setting, file or run cannot be used, or another process trains the run.
    """
    config = load_settings(argv)
    # held before the synthetic videos are made; `fit` enters the same lease again
    with hold_run(RunDir.from_config(config.run)):
        # Slow imports: --help, mistyped settings and a second start are answered before them.
        from lightning.pytorch.utilities import rank_zero_only

        from lit_hour.synthetic.dataset import build_and_pack
        from lit_hour.training.fit import fit
        from lit_hour.training.trainer_setup import check_accelerator

        configure_logging()
        check_accelerator(config.training)  # `fit` checks it too, but after the videos are made
        dataset = build_and_pack(config) if config.synthetic.num_videos else None
        result = fit(config, shutdown)
        report = result.report(*dataset.example()) if dataset else result.report()
        rank_zero_only(print)(report)


def load_settings(argv: Sequence[str]) -> Config:
    """Load the settings of a command line; without a file, of the default file.

    Raises:
        ConfigError: a file or setting cannot be used.
        SystemExit: a word is neither a file nor a setting, or `--help` was given.
    """
    parser = CommandParser(
        "python train.py",
        f"Train a run, or resume it. Without a file, the settings are those of {DEFAULT_CONFIG}.",
        settings_help="any setting listed below",
        takes_config=True,
        explain_extra=lambda _, extra: f"{extra[0]} is neither a .yaml file nor key=value",
        epilog=describe_settings,
    )
    arguments = parser.parse(argv)
    return load_config(arguments.config or DEFAULT_CONFIG, arguments.overrides)


def configure_logging() -> None:
    """Print log records of rank zero, errors of any rank, and Lightning's warnings."""
    from lightning.pytorch.utilities import rank_zero_only

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(
        lambda record: rank_zero_only.rank == 0 or record.levelno >= logging.ERROR  # type: ignore[attr-defined]
    )
    log = logging.getLogger("lit_hour")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


if __name__ == "__main__":
    shutdown_signal = ShutdownSignal()
    is_job = "SLURM_JOB_ID" in os.environ
    if is_job:
        shutdown_signal.install()  # a signal during the imports would end the job
    try:
        main(sys.argv[1:], shutdown_signal)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted by Ctrl-C.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if is_job:
            shutdown_signal.ignore()  # srun signals the remaining ranks when the first has exited
