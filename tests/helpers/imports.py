"""What a fresh interpreter has imported after some statements."""

import subprocess
import sys
from collections.abc import Collection

from tests import REPOSITORY


def imported_modules(statements: str, names: Collection[str]) -> list[str]:
    """Run statements in a new process, and return those of `names` that are then imported."""
    code = f"import sys; {statements}; print(*sorted(sys.modules.keys() & set({list(names)!r})))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return found.stdout.split()
