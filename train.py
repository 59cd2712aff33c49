"""Train a run, or resume it: python train.py [conf/NAME.yaml] [key=value ...]."""

import logging
import os
import sys

from lit_hour.config.introspect import describe_settings
from lit_hour.config.load import parse_command_line
from lit_hour.errors import InputError
from lit_hour.training.signals import ShutdownSignal

DEFAULT_CONFIG = "conf/tiny.yaml"


def main(argv: list[str], shutdown: ShutdownSignal | None = None) -> None:
    """Read the settings, make the synthetic videos if there are to be any, train, and print what to try next."""
    if {"-h", "--help"} & set(argv):
        print(f"{__doc__} The default is {DEFAULT_CONFIG}.\n\n{describe_settings()}")
        return
    config = parse_command_line(argv, DEFAULT_CONFIG)

    # Slow imports: --help and mistyped settings are answered before them.
    from lightning.pytorch.utilities import rank_zero_only

    from lit_hour.synthetic.dataset import build_and_pack
    from lit_hour.training.fit import fit

    configure_logging()
    dataset = build_and_pack(config) if config.synthetic.num_videos else None
    result = fit(config, shutdown)
    if rank_zero_only.rank == 0:
        print(result.report(*dataset.example()) if dataset else result.report())


def configure_logging() -> None:
    """Print the project's log records of rank zero, its errors on any rank, and Lightning's warnings."""
    from lightning.pytorch.utilities import rank_zero_only

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: rank_zero_only.rank == 0 or record.levelno >= logging.ERROR)
    log = logging.getLogger("lit_hour")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


if __name__ == "__main__":
    shutdown_signal = ShutdownSignal()
    is_job = "SLURM_JOB_ID" in os.environ
    if is_job:
        shutdown_signal.install()  # without a handler, a signal during the imports would end the job
    try:
        main(sys.argv[1:], shutdown_signal)
    except InputError as error:
        sys.exit(f"error: {error}")
    finally:
        if is_job:
            shutdown_signal.ignore()  # srun signals the remaining ranks when the first has exited
