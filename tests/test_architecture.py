"""The rules of the house: which room imports which, where each library lives, how long things are, what is never written.

One pure function finds what breaks them, `complaints(path, source)`. The tests apply it to the project, and to small
made-up sources that break one rule each, so that no rule can sleep.
"""

import ast
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests import REPOSITORY

FILES = sorted(
    str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "lit_hour").rglob("*.py")
)

LEAVES = {
    *(
        "errors",
        "types",
        "taxonomy",
        "config",
        "locked",
        "whole",
        "journal",
        "weights",
        "weight_pieces",
    ),
    *("digest", "eight_bits"),
}

MAY_IMPORT = {  # room -> the other rooms of ours that it may import; a name with a dot is one module of a room
    "__init__": set(),
    "errors": set(),
    "types": set(),
    "taxonomy": set(),
    "locked": set(),
    "whole": set(),
    "digest": set(),
    "eight_bits": set(),
    "journal": {"errors"},
    "weights": {"errors", "weight_pieces"},
    "weight_pieces": {"errors"},
    "config": {"errors"},
    "run": {"config", "errors"},
    "video": LEAVES,
    "image": LEAVES,
    "text": LEAVES,
    "model": LEAVES,
    "interop": LEAVES | {"run", "model", "text"},
    "processor": LEAVES | {"video", "text"},
    "data": LEAVES | {"processor", "video", "image"},
    "training": LEAVES | {"run", "interop", "data", "processor", "model", "text"},
    "serving": LEAVES | {"run", "interop", "processor", "model", "text", "video", "image"},
    "evaluation": LEAVES
    | {
        "run",
        "serving",
        "processor",
        "model",
        "text",
        "video",
        "data.question_file",
        "data.questions",
        "training",
    },
    "marathon": LEAVES
    | {
        "video",
        "data.pack",
        "data.questions",
        "data.question_file",
    },  # the form of a question is data's
    "world": LEAVES | {"video", "data.pack"},
}

HOMES = {  # library -> the only places that may import it; a folder ends in a slash
    "omegaconf": ["lit_hour/config/"],
    "yaml": ["lit_hour/config/"],
    "webdataset": ["lit_hour/data/"],
    "av": [
        "lit_hour/media/video_probe.py",
        "lit_hour/media/frame_iterator.py",
        "lit_hour/media/gop_decoder.py",
        "lit_hour/media/video_reader.py",
        "lit_hour/synthetic/render.py",
    ],
    "lightning": [
        "lit_hour/training/",
        "lit_hour/data/datamodule.py",
        "lit_hour/evaluation/evaluate.py",
    ],
    "pytorch_lightning": [],
    "open_clip": ["lit_hour/model/vision_encoder.py"],
    "fastapi": ["lit_hour/serving/server/"],
    "starlette": ["lit_hour/serving/server/"],
    "uvicorn": ["lit_hour/serving/server/"],
    "openai": ["lit_hour/videomarathon/llm_client.py"],
    "datasketch": ["lit_hour/videomarathon/filters.py"],
    "jsonschema": ["lit_hour/videomarathon/teacher.py"],
    "lmms_eval": ["lit_hour/evaluation/lmms/"],
    "accelerate": ["lit_hour/evaluation/lmms/"],
    "pyarrow": ["lit_hour/evaluation/benchmarks/files.py"],
    "transformers": ["lit_hour/model/language_model.py", "lit_hour/text/tokenizer.py"],
    **{
        name: [] for name in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
    },  # loading runs what is in the file
}

IMPORTS_ANYTHING = ["lit_hour/cli.py"]

MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 60

UNSAFE_ARGUMENTS = {
    "weights_only": False,
    "allow_pickle": True,
}  # each lets a file that a stranger made run code
CAUGHT_TOO_MUCH = {"Exception", "BaseException"}

TOP_LEVEL = {
    *(
        ".ci",
        ".gitignore",
        "LICENSE",
        "Makefile",
        "README.md",
        "pyproject.toml",
        "requirements.txt",
        "train.py",
    ),
    *("conf", "lit_hour", "notebooks", "shards", "tests"),
}


def complaints(path: str, source: str) -> list[str]:
    """What in a file breaks a rule, as `line: reason`; `path` is relative to the repository."""
    tree = ast.parse(source)
    found = [*find_unsafe_code(tree), *find_long_code(tree, source)]
    if path not in IMPORTS_ANYTHING:
        found += [
            *find_wrong_rooms(path, tree),
            *find_strangers(path, tree),
            *find_hidden_imports(tree),
        ]
    return found


def imported_names(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of each import anywhere in a file, relative ones resolved."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def find_wrong_rooms(path: str, tree: ast.AST) -> Iterator[str]:
    room = path.removesuffix(".py").split("/")[1]
    if room not in MAY_IMPORT:
        yield f"1: '{room}' is no room of MAY_IMPORT"
        return
    for line, name in imported_names(path, tree):
        if name.split(".")[0] != "lit_hour" or name == "lit_hour.__version__":
            continue
        inner = name.removeprefix("lit_hour.")
        if not any(f"{inner}.".startswith(f"{allowed}.") for allowed in {room} | MAY_IMPORT[room]):
            yield f"{line}: {room} may not import {name}"


def find_strangers(path: str, tree: ast.AST) -> Iterator[str]:
    for line, name in imported_names(path, tree):
        library = name.split(".")[0]
        homes = HOMES.get(library, [path])
        if not any(
            path == home or (home.endswith("/") and path.startswith(home)) for home in homes
        ):
            yield f"{line}: {library} may be imported only in {', '.join(homes) or 'no file'}"


def find_hidden_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in ("__import__", "import_module"):
            yield f"{node.lineno}: an import that cannot be read off the source"


def find_unsafe_code(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or last_name(kind) in CAUGHT_TOO_MUCH for kind in caught):
                yield f"{node.lineno}: catches everything: name the errors that are expected here"
        elif isinstance(node, ast.Call):
            if last_name(node.func) == "suppress" and CAUGHT_TOO_MUCH & set(
                map(last_name, node.args)
            ):
                yield f"{node.lineno}: suppresses everything: name the errors that are expected here"
            for keyword in node.keywords:
                unsafe = UNSAFE_ARGUMENTS.get(keyword.arg or "")
                if (
                    unsafe is not None
                    and isinstance(keyword.value, ast.Constant)
                    and keyword.value.value is unsafe
                ):
                    yield f"{node.lineno}: {keyword.arg}={unsafe} runs code that is in the file"


def find_long_code(tree: ast.AST, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > MOST_LINES_OF_A_FILE:
        yield f"1: the file has {lines} lines, more than {MOST_LINES_OF_A_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.lineno}: {node.name} has {lines} lines, more than {MOST_LINES_OF_A_FUNCTION}"


def last_name(node: ast.AST | None) -> str:
    """`Exception` of `Exception` and of `builtins.Exception`."""
    return (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else ""
    )


# The project keeps the rules


@pytest.mark.parametrize("path", FILES)
def test_file_keeps_the_rules(path: str) -> None:
    assert complaints(path, (REPOSITORY / path).read_text(encoding="utf-8")) == []


def tracked_files() -> list[str]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return listed.rstrip("\0").split("\0")


def test_the_top_level_holds_what_the_design_lists() -> None:
    assert {path.split("/")[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_shard_is_in_git() -> None:
    assert [path for path in tracked_files() if path.startswith("shards/")] in (
        [],
        ["shards/README.md"],
    )


# Each rule fires


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_may_import_what_the_table_says_and_nothing_else(room: str) -> None:
    for other in MAY_IMPORT.keys() - {"__init__"}:
        allowed = other == room or other in MAY_IMPORT[room]
        assert (complaints(f"lit_hour/{room}.py", f"import lit_hour.{other}") == []) == allowed, (
            other
        )
        assert (
            complaints(f"lit_hour/{room}/inner.py", f"from lit_hour.{other}.inner import it") == []
        ) == allowed, other


@pytest.mark.parametrize(
    "path, source",
    [
        ("lit_hour/types.py", "from lit_hour.errors import InputError"),
        ("lit_hour/taxonomy.py", "import lit_hour.types"),
        ("lit_hour/config/load.py", "from lit_hour.types import Sample"),
        ("lit_hour/model/hour_llava.py", "from lit_hour.text.tokenizer import load_tokenizer"),
        ("lit_hour/text/chat_template.py", "from lit_hour.media import decode"),
        (
            "lit_hour/processor.py",
            "from lit_hour.model.multimodal_inputs import merge_visual_tokens",
        ),
        ("lit_hour/data/shards/reader.py", "from lit_hour.training.fit import fit"),
        ("lit_hour/training/fit.py", "from lit_hour.inference.predictor import VideoPredictor"),
        ("lit_hour/inference/predictor.py", "from lit_hour.data.shards.reader import open_shards"),
        ("lit_hour/inference/predictor.py", "from lit_hour.training.module import HourLLaVAModule"),
        ("lit_hour/synthetic/dataset.py", "from lit_hour.data.shards.reader import open_shards"),
        ("lit_hour/synthetic/dataset.py", "from lit_hour.data import pack, shards"),
        ("lit_hour/synthetic/dataset.py", "import lit_hour.data"),
        ("lit_hour/videomarathon/teacher.py", "from lit_hour.data.packing import pack"),
        ("lit_hour/evaluation/needle.py", "from lit_hour.synthetic.dataset import make"),
        (
            "lit_hour/model/multimodal_inputs.py",
            "def late():\n    import lit_hour.data.order.sample_order as order",
        ),
        (
            "lit_hour/model/multimodal_inputs.py",
            "if TYPE_CHECKING:\n    from lit_hour.data.order.sample_order import MixedOrder",
        ),
        ("lit_hour/model/multimodal_inputs.py", "from ..data import order"),
        ("lit_hour/model/multimodal_inputs.py", "from .. import data"),
        ("lit_hour/model/multimodal_inputs.py", "from lit_hour import data"),
        ("lit_hour/model/multimodal_inputs.py", "from lit_hour import *"),
        ("lit_hour/model/multimodal_inputs.py", "import lit_hour"),
    ],
)
def test_an_import_from_the_wrong_room_is_found(path: str, source: str) -> None:
    assert [
        complaint
        for complaint in complaints(path, source)
        if "may not import lit_hour" in complaint
    ]


@pytest.mark.parametrize(
    "path, source",
    [
        ("lit_hour/synthetic/dataset.py", "from lit_hour.data.packing.pack import pack_videos"),
        ("lit_hour/synthetic/dataset.py", "from lit_hour.data import pack"),
        (
            "lit_hour/videomarathon/captions.py",
            "from lit_hour.media.video_reader import read_frames",
        ),
        (
            "lit_hour/model/multimodal_inputs.py",
            "from . import forgetting\nfrom .memory_repository import build_video_repository",
        ),
        ("lit_hour/model/multimodal_inputs.py", "from lit_hour import __version__"),
        ("lit_hour/model/multimodal_inputs.py", "import avro, lightning_bolt, yamlish"),
        (
            "lit_hour/cli.py",
            "import av, lightning, lit_hour.inference.predictor, lit_hour.data.packing.pack",
        ),
        (
            "lit_hour/data/shards/shard_index.py",
            "import torch\ntorch.load(path, weights_only=True)\nnumpy.load(path, allow_pickle=False)",
        ),
        (
            "lit_hour/data/shards/shard_index.py",
            "try:\n    pass\nexcept (OSError, ValueError):\n    raise\nwith suppress(OSError): pass",
        ),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert complaints(path, source) == []


@pytest.mark.parametrize("path", ["lit_hour/unheard_of.py", "lit_hour/unheard_of/inner.py"])
def test_a_room_that_is_not_in_the_table_is_found(path: str) -> None:
    assert complaints(path, "") == ["1: 'unheard_of' is no room of MAY_IMPORT"]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_away_from_home_is_found(library: str) -> None:
    for source in (
        f"import {library}",
        f"import {library}.part as part",
        f"def late():\n    from {library}.part import it",
    ):
        assert any(
            f"{library} may be imported only in" in found
            for found in complaints("lit_hour/processor.py", source)
        )
        for home in HOMES[library]:
            assert complaints(f"{home}inner.py" if home.endswith("/") else home, source) == []


@pytest.mark.parametrize(
    "path, library",
    [
        ("lit_hour/media/frame_sampling.py", "av"),
        ("lit_hour/data/shards/reader.py", "lightning"),
        ("lit_hour/inference/predictor.py", "lightning"),
        ("lit_hour/text/chat_template.py", "transformers"),
        ("lit_hour/model/interop.py", "open_clip"),
        ("lit_hour/inference/predictor.py", "yaml"),
        ("lit_hour/synthetic/render.py", "webdataset"),
        ("lit_hour/configuration.py", "omegaconf"),
    ],
)
def test_a_neighbour_of_the_home_is_not_the_home(path: str, library: str) -> None:
    assert any(
        f"{library} may be imported only in" in found
        for found in complaints(path, f"import {library}")
    )


@pytest.mark.parametrize(
    "source, reason",
    [
        ("try:\n    pass\nexcept:\n    pass", "3: catches everything"),
        ("try:\n    pass\nexcept Exception:\n    raise", "3: catches everything"),
        (
            "try:\n    pass\nexcept (OSError, Exception) as error:\n    pass",
            "3: catches everything",
        ),
        ("try:\n    pass\nexcept* builtins.BaseException:\n    pass", "3: catches everything"),
        ("with contextlib.suppress(OSError, Exception):\n    pass", "1: suppresses everything"),
        ("torch.load(path, weights_only=False)", "1: weights_only=False runs code"),
        ("numpy.load(path, allow_pickle=True)", "1: allow_pickle=True runs code"),
        ("importlib.import_module('lit_hour.data')", "1: an import that cannot be read"),
        ("__import__('lightning')", "1: an import that cannot be read"),
    ],
)
def test_unsafe_code_is_found(source: str, reason: str) -> None:
    assert [
        found
        for found in complaints("lit_hour/data/shards/shard_index.py", source)
        if found.startswith(reason)
    ]


def test_a_long_function_is_found() -> None:
    def function_of(lines: int) -> str:
        return "class Room:\n    async def story(self):\n" + "        pass\n" * (lines - 1)

    assert complaints("lit_hour/data/shards/shard_index.py", function_of(60)) == []
    assert complaints("lit_hour/data/shards/shard_index.py", function_of(61)) == [
        "2: story has 61 lines, more than 60"
    ]


def test_a_long_file_is_found() -> None:
    assert complaints("lit_hour/data/shards/shard_index.py", "pass\n" * 300) == []
    assert complaints("lit_hour/data/shards/shard_index.py", "pass\n" * 301) == [
        "1: the file has 301 lines, more than 300"
    ]
