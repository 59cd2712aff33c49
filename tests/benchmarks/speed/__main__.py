"""python -m tests.benchmarks.speed [TOPIC ...]: measure, and leave runs/benchmark/speed.json, .md and .png."""

import sys

from tests.benchmarks.speed.harness.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
