"""Measure speed: `python -m tests.benchmarks.speed [TOPIC ...]`.

Writes `tests/benchmarks/RESULTS.md`, `runs/benchmark/speed.json` and `runs/benchmark/speed.png`.
"""

import sys

from tests.benchmarks.speed.harness.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
