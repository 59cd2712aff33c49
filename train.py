"""Train a run, or continue it: python train.py [conf/NAME.yaml] [key=value ...]."""

import logging
import os
import sys

from lit_hour.config.introspect import describe_settings
from lit_hour.config.load import parse_command_line
from lit_hour.errors import InputError
from lit_hour.training.distributed import SHUTDOWN_SIGNAL

DEFAULT = "conf/tiny.yaml"


def main(words: list[str]) -> None:
    """Settings, made-up videos if they are asked for, training, and what to try next."""
    if {"-h", "--help"} & set(words):
        print(f"{__doc__} The default is {DEFAULT}.\n\n{describe_settings()}")
        return
    config = parse_command_line(words, DEFAULT)

    # imported here, so that --help and a mistyped setting answer at once
    from lit_hour.synthetic.dataset import build_and_pack
    from lit_hour.training.fit import fit

    show_progress()
    dataset = build_and_pack(config) if config.synthetic.num_videos else None
    outcome = fit(config)
    if is_first_rank():
        print(outcome.report(*dataset.example()) if dataset else outcome.report())


def is_first_rank() -> bool:
    """Whether this is the process that speaks for all: srun numbers its tasks, and Lightning the processes that it starts."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    )


def show_progress() -> None:
    """Our own log lines on standard output, as they are, of the first rank; of Lightning's only warnings."""
    log = logging.getLogger("lit_hour")
    log.setLevel(logging.INFO if is_first_rank() else logging.ERROR)
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


if __name__ == "__main__":
    is_job = "SLURM_JOB_ID" in os.environ
    if is_job:
        SHUTDOWN_SIGNAL.install()  # a warning may come while libraries are still imported, and would end the job
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    finally:
        if is_job:
            SHUTDOWN_SIGNAL.ignore()  # srun warns the ranks that are still leaving when the first one has left
