"""Run several trainings in one start of the ranks: python run_ranks.py FOLDER.

FOLDER/runs.json has a list of overrides for each. Starting ranks takes longer than a small run. The
other ranks are started with the same command and do the same runs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import train
from lit_hour.training.fit import fit
from tests.training.toy_onevision import know_tower


def main(folder: Path) -> None:
    """Do the runs in the folder, where the toy stages find their files."""
    os.chdir(folder)
    know_tower(folder)
    for overrides in json.loads((folder / "runs.json").read_text()):
        fit(train.load_settings(overrides))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
