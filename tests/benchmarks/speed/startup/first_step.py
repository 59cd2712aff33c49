"""python -m tests.benchmarks.speed.startup.first_step FILE [WORDS ...]: train.py up to its first step, and when it was where.

It leaves JSON in the file: the time.time() at which each part was over. Nothing is trained beyond the first step.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


def main(file: Path, words: list[str]) -> None:
    """Run train.py with marks where its parts end."""
    # imported here, as train.py does: the processes that it starts read this file again
    import train
    from lit_hour.synthetic import dataset as prepare
    from lit_hour.training import fit
    from tests.benchmarks.speed.startup.exit_callback import LeaveAfterFirstStep

    times = {"imports": time.time()}
    build_and_pack, build_callbacks = prepare.build_and_pack, fit.build_callbacks

    def timed_world(*arguments: Any) -> Any:
        world = build_and_pack(*arguments)
        times["videos and shards"] = time.time()
        return world

    prepare.build_and_pack = timed_world
    fit.build_callbacks = lambda *arguments: [
        *build_callbacks(*arguments),
        LeaveAfterFirstStep(file, times),
    ]
    train.main(words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
