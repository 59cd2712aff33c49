"""`python -m tests.benchmarks.gpu`: see `command.py`."""

import sys

from tests.benchmarks.gpu.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
