"""Rules for the code that ruff and import-linter cannot express; `make check` runs those two."""

import ast
import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import REPOSITORY

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
UNSAFE_ARGUMENTS = {"weights_only": False, "allow_pickle": True}  # loading could execute code
TOO_BROAD = {"Exception", "BaseException"}
TOP_LEVEL = {
    *(".ci", ".gitignore", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("requirements.txt", "train.py", "conf", "lit_hour", "notebooks", "shards", "tests"),
}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def find_violations(source: str) -> list[str]:
    """Return the violations in a module, as `line: reason`."""
    tree = ast.parse(source)
    return [*find_unsafe_code(tree), *find_long_code(tree, source)]


def find_unsafe_code(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(error is None or last_name(error) in TOO_BROAD for error in caught):
                yield f"{node.lineno}: catches every exception"
        elif isinstance(node, ast.Call):
            name = last_name(node.func)
            if name == "__import__":
                yield f"{node.lineno}: dynamic import"
            if name == "suppress" and TOO_BROAD & set(map(last_name, node.args)):
                yield f"{node.lineno}: suppresses every exception"
            for keyword in node.keywords:
                unsafe = UNSAFE_ARGUMENTS.get(keyword.arg or "")
                value = keyword.value
                if unsafe is not None and isinstance(value, ast.Constant) and value.value is unsafe:
                    yield f"{node.lineno}: {keyword.arg}={unsafe} executes code in the file"


def find_long_code(tree: ast.AST, source: str) -> Iterator[str]:
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"1: the file has {num_lines} lines, more than {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield (
                    f"{node.lineno}: {node.name} has {num_lines} lines,"
                    f" more than {MAX_FUNCTION_LINES}"
                )


def last_name(node: ast.AST | None) -> str:
    """Return `Exception` for `Exception` and for `builtins.Exception`."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def tracked_files() -> list[str]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return [path for path in listed.split("\0") if path and (REPOSITORY / path).exists()]


# Rules of this file


def test_package_follows_the_rules() -> None:
    violations = [
        f"{path.relative_to(REPOSITORY)}:{violation}"
        for path in sorted((REPOSITORY / "lit_hour").rglob("*.py"))
        for violation in find_violations(path.read_text(encoding="utf-8"))
    ]
    assert not violations, "\n".join(violations)


def test_unsafe_code_is_found() -> None:
    for source, violation in (
        ("try:\n    pass\nexcept:\n    pass", "3: catches every exception"),
        ("try:\n    pass\nexcept Exception:\n    raise", "3: catches every exception"),
        ("try:\n    pass\nexcept (OSError, Exception):\n    pass", "3: catches every exception"),
        ("try:\n    pass\nexcept* builtins.BaseException:\n    pass", "3: catches every exception"),
        ("with contextlib.suppress(OSError, Exception):\n    pass", "1: suppresses every"),
        ("torch.load(path, weights_only=False)", "1: weights_only=False executes code"),
        ("numpy.load(path, allow_pickle=True)", "1: allow_pickle=True executes code"),
        ("__import__('lightning')", "1: dynamic import"),
    ):
        (found,) = find_violations(source)
        assert found.startswith(violation), source
    for source in (
        "torch.load(path, weights_only=True)\nnumpy.load(path, allow_pickle=False)",
        "try:\n    pass\nexcept (OSError, ValueError):\n    raise\nwith suppress(OSError): pass",
    ):
        assert find_violations(source) == []


def test_long_code_is_found() -> None:
    def function(num_lines: int) -> str:
        return "class A:\n    async def method(self):\n" + "        pass\n" * (num_lines - 1)

    assert find_violations(function(60)) == find_violations("pass\n" * 400) == []
    assert find_violations(function(61)) == ["2: method has 61 lines, more than 60"]
    assert find_violations("pass\n" * 401) == ["1: the file has 401 lines, more than 400"]


# Tracked files and packaging


def test_top_level_and_shards_hold_only_what_belongs_there() -> None:
    paths = tracked_files()
    assert {path.split("/")[0] for path in paths} <= TOP_LEVEL
    assert [path for path in paths if path.startswith("shards/")] == ["shards/README.md"]


def test_every_data_file_is_in_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["lit_hour"]
    for path in tracked_files():
        inner = path.removeprefix("lit_hour/")
        if path != inner and not path.endswith((".py", ".md")):
            assert any(fnmatch.fnmatch(inner, pattern) for pattern in patterns), path


# extras of settings that the tested environment lacks, so that no version of theirs is pinned
UNPINNED_EXTRAS = ("quantized", "wandb")


def test_pinned_versions_are_in_the_ranges() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    pins = dict(pinned)
    assert len(pins) == len(pinned)  # each once
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    smollm2 = re.search(r"^SMOLLM2 := (\S+)==(\S+)$", makefile, re.M)  # without its dependencies
    assert smollm2
    pins[smollm2[1]] = smollm2[2]
    project = PROJECT["project"]
    ranges = [
        *project["dependencies"],
        *(
            line
            for extra, lines_of_extra in project["optional-dependencies"].items()
            for line in lines_of_extra
            if extra not in UNPINNED_EXTRAS
        ),
    ]
    requirements = [Requirement(line) for line in ranges if not line.startswith("lit_hour")]
    assert {requirement.name for requirement in requirements} == set(pins)
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name]), requirement


# Contracts of import-linter and bans of ruff, in pyproject.toml


@pytest.mark.slow
def test_every_import_contract_and_ban_fires(tmp_path: Path) -> None:
    """Add forbidden imports to a copy of the package, and check that each contract is broken."""
    shutil.copytree(REPOSITORY / "lit_hour", tmp_path / "lit_hour")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    stranger = tmp_path / "lit_hour/text/tokenizer.py"  # imports none of the protected modules
    forbidden = sorted(
        {name for contract in contracts for name in contract.get("protected_modules", ())}
        - {"transformers", "tokenizers", "lit_hour.text"}
    )
    imports = "".join(f"\nimport {name}" for name in forbidden)
    stranger.write_text(stranger.read_text() + imports + "\n")
    (tmp_path / "lit_hour/errors.py").write_text("import transformers, tokenizers, lit_hour.text\n")
    exported = tmp_path / "lit_hour/export/transformers_code/memory_hour_llava.py"
    exported.write_text(f"{exported.read_text()}\nimport lit_hour.errors\n")
    (tmp_path / "lit_hour/unlisted.py").touch()
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "unlisted" in done.stdout
    kept = [line for line in done.stdout.splitlines() if re.search(r" KEPT\b", line)]
    assert not kept, done.stdout
    for name in forbidden:
        assert name in done.stdout, name

    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    (tmp_path / "lit_hour/banned.py").write_text("".join(f"import {name}\n" for name in banned))
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "lit_hour/banned.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for name in banned:
        assert f"`{name}` is banned" in found, name
