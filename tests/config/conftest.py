"""Fixtures of the config tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

WriteYaml = Callable[..., Path]  # takes text and name, returns the path


@pytest.fixture
def write(tmp_path: Path) -> WriteYaml:
    """Write a YAML file into the test's folder and return its path."""

    def write_yaml(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_yaml
