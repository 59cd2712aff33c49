"""Run train.py up to its first step and record when each part ends.

    python -m tests.benchmarks.speed.startup.first_step FILE [OVERRIDE ...]

FILE becomes JSON with the `time.time()` at the end of each part.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


def main(file: Path, overrides: list[str]) -> None:
    """Run train.py with the time recorded at the end of each part.

    Its modules are imported by train.py itself: it renders videos during the imports.
    """
    import train

    times: dict[str, float] = {}
    configure_logging = train.configure_logging  # called right after the imports

    def record_imports() -> None:
        times["imports"] = time.time()
        configure_logging()
        record_parts_of_fit(file, times)

    train.configure_logging = record_imports
    train.main(overrides)


def record_parts_of_fit(file: Path, times: dict[str, float]) -> None:
    """Record when `fit` begins, and end the process after the first step."""
    from lit_hour.training import fit
    from tests.benchmarks.speed.startup.exit_callback import ExitAfterFirstStep

    check_accelerator, build_callbacks = fit.check_accelerator, fit.build_callbacks

    def record_videos(*arguments: Any) -> None:
        times["videos and shards"] = time.time()
        check_accelerator(*arguments)

    exit_callback = ExitAfterFirstStep(file, times)
    fit.check_accelerator = record_videos
    fit.build_callbacks = lambda *arguments: [*build_callbacks(*arguments), exit_callback]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
