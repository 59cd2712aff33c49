"""Train a run, or continue it: python train.py [conf/NAME.yaml] [key=value ...]."""

import logging
import sys

from lit_hour.config.command_line import parse_command_line
from lit_hour.config.describe import describe_settings
from lit_hour.errors import InputError

DEFAULT = "conf/tiny.yaml"


def main(words: list[str]) -> None:
    """Settings, made-up videos if they are asked for, training, and what to try next."""
    if {"-h", "--help"} & set(words):
        print(f"{__doc__} The default is {DEFAULT}.\n\n{describe_settings()}")
        return
    config = parse_command_line(words, DEFAULT)

    # imported here, so that --help and a mistyped setting answer at once
    from lit_hour.training.fit import fit
    from lit_hour.world.prepare import prepare_world

    show_progress()
    world = prepare_world(config) if config.world.num_videos else None
    outcome = fit(config)
    print(outcome.report(*world.example()) if world else outcome.report())


def show_progress() -> None:
    """Our own log lines on standard output, as they are; of Lightning's only warnings."""
    log = logging.getLogger("lit_hour")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
