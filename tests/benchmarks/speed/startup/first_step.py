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
    """Run train.py with the time recorded at the end of each part."""
    # Imported here, as in train.py, because the processes that it starts import this module again.
    import train
    from lit_hour.synthetic import dataset
    from lit_hour.training import fit
    from tests.benchmarks.speed.startup.exit_callback import ExitAfterFirstStep

    times = {"imports": time.time()}
    build_and_pack, build_callbacks = dataset.build_and_pack, fit.build_callbacks

    def timed_build_and_pack(*arguments: Any) -> Any:
        built = build_and_pack(*arguments)
        times["videos and shards"] = time.time()
        return built

    dataset.build_and_pack = timed_build_and_pack
    exit_callback = ExitAfterFirstStep(file, times)
    fit.build_callbacks = lambda *arguments: [*build_callbacks(*arguments), exit_callback]
    train.main(overrides)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
