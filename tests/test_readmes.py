"""READMEs name only settings, paths, commands and benchmarks that exist."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.cli.main import COMMANDS
from lit_hour.config.arguments import CommandParser
from lit_hour.config.introspect import walk_schema
from lit_hour.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT)
    for pattern in (
        "README.md",
        "*/README.md",
        "lit_hour/*/README.md",
        "conf/**/README.md",
        "tests/**/*.md",
    )
    for page in ROOT.glob(pattern)
)
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml"))
SETTINGS = {info.name: info for info in walk_schema()}
SECTIONS = "|".join(sorted({name.partition(".")[0] for name in SETTINGS if "." in name}))
SETTING = re.compile(rf"(?<![\w./-])((?:{SECTIONS})(?:\.\w+)+)(?:=(\w*))?")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
QUOTED = re.compile(r"`([^`\n]+)`")
SUFFIXES = (".py", ".md", ".yaml", ".ipynb", ".sbatch", ".svg", ".png", ".json", ".js", ".txt")
# folders of the repository; runs/ and other outputs do not exist in a fresh clone
FOLDERS = ("lit_hour/", "tests/", "conf/", "notebooks/", "shards/README.md")


def read_text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def schema_name(name: str) -> str:
    """Replace the name of a data source, which the user chooses, by NAME."""
    return re.sub(r"^data\.sources\.\w+", "data.sources.NAME", name)


def mentioned_settings(page: Path) -> Iterator[tuple[str, str]]:
    """Iterate over (name, value) of the settings that a page mentions; "" without a value."""
    text = read_text(page)
    if page.suffix == ".yaml":
        text = "\n".join(re.findall(r"#.*", text))
    text = re.sub(r"^```python.*?^```", "", text, flags=re.M | re.S)  # data.x is an attribute there
    for name, value in SETTING.findall(text):
        if not name.endswith(SUFFIXES):  # a file, such as data.py
            yield schema_name(name), value


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=str)
def test_settings_exist(page: Path) -> None:
    unknown = []
    for name, value in mentioned_settings(page):
        choices = SETTINGS[name].choices if name in SETTINGS else ()
        if name not in SETTINGS or (value.islower() and choices and value not in choices):
            unknown.append(f"{name}={value}")
    assert not unknown, f"{page} names settings that do not exist: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paths_exist(page: Path) -> None:
    text = read_text(page)
    folder = (ROOT / page).parent
    missing = [
        target
        for target in LINK.findall(text)
        if "://" not in target and not (folder / target).exists()
    ]
    for quoted in QUOTED.findall(text):
        path = quoted.split()[-1].split("::")[0].rstrip("/")
        if re.search(r"[*{}<>]|NAME", path) or not path.isascii():
            continue
        is_path = path.endswith(SUFFIXES) or path.startswith(FOLDERS)
        if is_path and "/" in path and path.startswith(FOLDERS) and not (ROOT / path).exists():
            missing.append(quoted)
    assert not missing, f"{page} names paths that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_exist(page: Path) -> None:
    text = read_text(page)
    commands = set(re.findall(r"(?:^ {4}(?:srun )?|`(?:srun )?)lit-hour (\w[\w-]*)", text, re.M))
    unknown = {command for command in commands if command not in COMMANDS}
    assert not unknown, f"{page} names commands that do not exist: {unknown}"
    for module in re.findall(r"python -m (tests\.[\w.]+\w)", text):
        path = ROOT / module.replace(".", "/")
        exists = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        assert exists, f"{page} names the module {module}, which does not exist"
    for config in re.findall(r"(?<![\w/])conf/[\w/]+\.(?:yaml|sbatch)", text):
        exists = (ROOT / config).is_file() or "NAME" in config or config == "conf/mine.yaml"
        assert exists, f"{page} names {config}, which does not exist"


def commands_in(text: str) -> Iterator[str]:
    """Iterate over the commands of this project in a page, without comments and prompts."""
    text = re.sub(r"\\\n(?:#\s*)?", " ", text)  # continued lines
    command = r"(?:lit-hour|python train\.py) [^\n`]+"
    for line in re.findall(rf"^(?:# )?\s{{4,}}(?:srun )?({command})", text, re.M):
        yield re.split(r"\s+#|\s\|", line)[0]
    yield from re.findall(rf"`({command})`", text)


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=str)
def test_commands_parse(page: Path) -> None:
    train_parser = CommandParser("train.py", "", settings_help="any", takes_config=True)
    for command in commands_in(read_text(page)):
        words = shlex.split(re.sub(r"[\[\]]|\.\.\.(?!\")", "", command))
        words = [word for word in words if word not in ("key=value", "--help")]
        program, *argv = words if words[0] == "lit-hour" else words[1:]
        try:
            if program == "train.py":
                train_parser.parse(argv)
            elif len(argv) > 1:
                COMMANDS[argv[0]].build_parser(argv[0], "").parse(argv[1:])
        except (SystemExit, ConfigError):
            pytest.fail(f"{page}: the arguments of {command!r} are wrong")


def test_readme_is_short() -> None:
    assert len(read_text(Path("README.md")).splitlines()) <= 200


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[0] == "lit_hour"], ids=str)
def test_package_readme_names_every_module(page: Path) -> None:
    text, folder = read_text(page), (ROOT / page).parent
    names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    names += [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    missing = [name for name in names if not re.search(rf"`{re.escape(name)}[\w./]*`", text)]
    assert not missing, f"{page} does not describe {missing}"


def test_named_modules_exist() -> None:
    modules = {
        path.name for folder in ("lit_hour", "tests") for path in (ROOT / folder).rglob("*.py")
    }
    modules |= {path.name for path in ROOT.glob("*.py")}
    for page in PAGES:
        unknown = set(re.findall(r"\b\w+\.py\b", read_text(page))) - modules
        assert not unknown, f"{page} names modules that do not exist: {unknown}"


def imports_in(source: str) -> Iterator[tuple[str, str]]:
    """Iterate over (module, name) of the imports of lit_hour in a piece of Python."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lit_hour"):
            for alias in node.names:
                yield node.module or "", alias.name


def defined_names(path: Path) -> set[str]:
    """Return the names that a module assigns, defines or imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.name for node in nodes if isinstance(node, ast.alias)}


def test_imports_of_examples_exist() -> None:
    sources = [
        (page, block)
        for page in PAGES
        for block in re.findall(r"^```python\n(.*?)^```", read_text(page), re.M | re.S)
    ]
    sources += [
        (path.relative_to(ROOT), "".join(cell["source"]))
        for path in sorted(ROOT.glob("notebooks/*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    for page, source in sources:
        for module, name in imports_in(source):
            path = ROOT / module.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            exists = file.is_file() and name in defined_names(file)
            assert exists, f"{page} imports {name} from {module}, which does not have it"


def test_every_package_has_a_readme() -> None:
    packages = {path.parent for path in ROOT.glob("lit_hour/*/__init__.py")}
    missing = sorted(path.name for path in packages if not (path / "README.md").is_file())
    assert not missing, f"packages without a README: {missing}"
