"""Imports of a run before its first step: packages that few runs need are left out."""

import subprocess
import sys

import pytest

from tests import REPOSITORY

RARELY_NEEDED = ("peft", "tensorboard", "fastapi", "openai", "datasketch", "jsonschema", "pyarrow")


@pytest.mark.slow
def test_training_imports_no_package_that_few_runs_need() -> None:
    code = (
        "import sys, train, lit_hour.synthetic.packing, lit_hour.training.fit;"
        f"print(*sorted(sys.modules.keys() & set({RARELY_NEEDED})))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_settings_and_help_are_read_without_torch_and_lightning() -> None:
    code = (
        "import sys, train; train.load_settings([]);"
        "print(*sorted(sys.modules.keys() & {'torch', 'lightning', 'av', 'numpy'}))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
