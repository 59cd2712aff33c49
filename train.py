"""Train a run, or resume it: python train.py [-c FILE ...] [key=value ...]."""

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from lit_hour.config.arguments import CommandParser
from lit_hour.config.introspect import describe_settings
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import InputError
from lit_hour.run_dir import RunDir
from lit_hour.training.optional_packages import check_optional_packages
from lit_hour.training.run_lease import hold_run, is_rank_zero
from lit_hour.training.signals import EXIT_INTERRUPTED, ShutdownSignal

if TYPE_CHECKING:
    from lit_hour.synthetic.dataset import DatasetBuild, SyntheticDataset

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
    check_optional_packages(config.training)
    if config.training.accelerator == "gpu":  # before the videos are made, though torch is imported
        from lit_hour.training.trainer_setup import check_accelerator

        check_accelerator(config.training)
    # held before the synthetic videos are made; `fit` enters the same lease again
    with hold_run(RunDir.from_config(config.run)):
        with start_synthetic(config) as build:  # renders in other processes during the imports
            # Slow imports: --help, mistyped settings and a second start are answered before them.
            with garbage_collection_paused():
                from lightning.pytorch.utilities import rank_zero_only

                from lit_hour.synthetic.packing import build_and_pack, pack_build
                from lit_hour.training.fit import fit

            configure_logging()
            if build:
                dataset: SyntheticDataset | None = pack_build(build, config)
            else:  # the other ranks wait here until rank zero has made the videos
                dataset = build_and_pack(config) if config.synthetic.num_videos else None
        result = fit(config, shutdown)
        report = result.report(*dataset.example()) if dataset else result.report()
        rank_zero_only(print)(report)


def start_synthetic(config: Config) -> AbstractContextManager["DatasetBuild | None"]:
    """Return the build of the synthetic videos; without any, or on other ranks, an empty context.

    Raises:
        SyntheticDataError: the settings give no videos.
    """
    if not config.synthetic.num_videos or not is_rank_zero():
        return nullcontext()
    from lit_hour.synthetic.dataset import start_build
    from lit_hour.synthetic.render_pool import FrameSampling

    return start_build(config.synthetic, FrameSampling.from_config(config.video, config.pack))


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: it is a fifth of the time of imports, and modules stay anyway."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


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
