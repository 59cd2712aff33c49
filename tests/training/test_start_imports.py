"""Imports of a run before its first step: packages that few runs need are left out."""

import pytest

from tests.helpers.imports import imported_modules

RARELY_NEEDED = ("peft", "tensorboard", "fastapi", "openai", "datasketch", "jsonschema", "pyarrow")


@pytest.mark.slow
def test_training_imports_no_package_that_few_runs_need() -> None:
    statements = "import train, lit_hour.synthetic.packing, lit_hour.training.fit"
    assert imported_modules(statements, RARELY_NEEDED) == []


def test_settings_and_help_are_read_without_torch_and_lightning() -> None:
    statements = "import train; train.load_settings([])"
    assert imported_modules(statements, ("torch", "lightning", "av", "numpy")) == []
