import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_hour.errors import WeightsError
from lit_hour.weights.reader import (
    check_listed,
    check_state_dict,
    load_into,
    open_weights,
    read_checkpoint,
)
from tests.weights.factories import shapes_of

WEIGHTS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "a.bias": torch.arange(3).to(torch.bfloat16),
    "b": torch.full((2, 2), 7.0, dtype=torch.float16),
}
SHARDS = {
    "model-00001-of-00002.safetensors": ("a.weight",),
    "model-00002-of-00002.safetensors": ("a.bias", "b"),
}
FIRST, SECOND = SHARDS


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    for shard, names in SHARDS.items():
        save_file({name: WEIGHTS[name] for name in names}, folder / shard)
    write_index(folder, {name: shard for shard, names in SHARDS.items() for name in names})
    return folder


def single_file(folder: Path) -> Path:
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def single_file_other_name(folder: Path) -> Path:
    save_file(WEIGHTS, folder / "tower.safetensors")
    return folder


def file_itself(folder: Path) -> Path:
    return single_file_other_name(folder) / "tower.safetensors"


def checkpoint(folder: Path) -> Path:
    state = {f"model.{name}": weight for name, weight in WEIGHTS.items()} | {
        "scores.total": torch.zeros(())
    }
    torch.save({"state_dict": state, "global_step": 2}, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize(
    "layout", (single_file, single_file_other_name, file_itself, checkpoint, "sharded")
)
def test_every_layout_reads_the_same_weights(
    tmp_path: Path, sharded: Path, layout: Callable[[Path], Path] | str
) -> None:
    path = layout(tmp_path) if callable(layout) else sharded
    stored = open_weights(path)
    assert stored.path == path
    assert shapes_of(stored.meta_tensors) == shapes_of(WEIGHTS)
    assert {name: meta_tensor.dtype for name, meta_tensor in stored.meta_tensors.items()} == {
        name: w.dtype for name, w in WEIGHTS.items()
    }
    assert all(meta_tensor.is_meta for meta_tensor in stored.meta_tensors.values())
    assert stored.num_bytes == 12 * 4 + 3 * 2 + 4 * 2
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in stored.tensors())


def test_subset_renamed_and_merge(tmp_path: Path, sharded: Path) -> None:
    stored = open_weights(sharded)
    subset = stored.subset({"b", "a.bias"})
    renamed = subset.renamed(lambda name: f"tower.{name}")
    assert set(renamed.meta_tensors) == {"tower.b", "tower.a.bias"}
    other = tmp_path / "other.safetensors"
    save_file({"b": torch.zeros(1)}, other)
    joined = subset.merge(renamed).merge(open_weights(other))
    expected = {
        "a.bias": WEIGHTS["a.bias"],
        "b": torch.zeros(1),
        "tower.b": WEIGHTS["b"],
        "tower.a.bias": WEIGHTS["a.bias"],
    }
    found = dict(joined.tensors())
    assert found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in found
    )


# Corruption


def truncate(file: Path, num_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:-num_bytes])


def with_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], object]:
    def corrupt(folder: Path) -> None:
        names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        change(names)
        write_index(folder, names)

    return corrupt


def quantized(folder: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, folder / FIRST)


CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (
        lambda folder: (folder / SECOND).unlink(),
        rf"index\.json lists {SECOND}, missing in .*sharded",
    ),
    "truncated shard": (
        lambda folder: truncate(folder / SECOND, 1),
        rf"{SECOND} is truncated, corrupt or not a safetensors file",
    ),
    "truncated header": (
        lambda folder: truncate(folder / FIRST, 90),
        rf"{FIRST} is truncated, corrupt or not a safetensors file",
    ),
    "empty shard": (
        lambda folder: (folder / FIRST).write_bytes(b""),
        rf"{FIRST} is truncated, corrupt",
    ),
    "not safetensors": (
        lambda folder: (folder / FIRST).write_text("PK no safetensors at all"),
        rf"{FIRST} is truncated, corrupt",
    ),
    "quantized": (
        quantized,
        rf"{FIRST}: a\.weight is stored as F8_E4M3\. Give weights that are not quantized",
    ),
    "key in another file": (
        with_index(lambda names: names.update({"a.weight": SECOND, "b": FIRST})),
        rf"{FIRST} contains a\.weight, but .*index\.json beside it lists it in {SECOND}",
    ),
    "unlisted key in both files": (
        lambda folder: (
            save_file({"a.weight": WEIGHTS["a.weight"], "b": WEIGHTS["b"]}, folder / FIRST),
            with_index(lambda names: names.pop("b"))(folder),
        ),
        rf"{SECOND} contains b, but so does {FIRST}, and .*index\.json lists neither",
    ),
    "path outside the folder": (
        with_index(lambda names: names.update({"b": "../b.safetensors"})),
        r"index\.json lists '\.\./b\.safetensors'\. Only names",
    ),
    "absolute path": (
        with_index(lambda names: names.update({"b": "/b.safetensors"})),
        r"index\.json lists '/b\.safetensors'",
    ),
    "not a string": (with_index(lambda names: names.update({"b": 3})), r"index\.json lists 3"),  # type: ignore[dict-item]
    "duplicate key": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "x", "b": "x", "a": "y"}}'
        ),
        r"index\.json is corrupt: duplicate key a",
    ),
    "no index": (
        lambda folder: (folder / "model.safetensors.index.json").unlink(),
        r"2 \.safetensors files without .*index",
    ),
    "truncated index": (
        lambda folder: truncate(folder / "model.safetensors.index.json", 3),
        r"index\.json is corrupt",
    ),
    "index of something else": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
        r"index\.json lacks weight_map",
    ),
    "single file and shards": (
        single_file,
        r"contains model\.safetensors and model\.safetensors\.index\.json, which does not list it",
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corrupt_folder_is_refused_on_open(sharded: Path, corruption: str) -> None:
    corrupt, message = CORRUPTIONS[corruption]
    corrupt(sharded)
    with pytest.raises(WeightsError, match=message):
        open_weights(sharded)


def test_index_that_is_out_of_date_is_read_with_a_warning(
    sharded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_index(lambda names: (names.pop("b"), names.update({"c": SECOND})))(sharded)
    stored = open_weights(sharded)
    assert shapes_of(stored.meta_tensors) == shapes_of(WEIGHTS)
    assert torch.equal(stored.read("b"), WEIGHTS["b"])
    assert stored.absent == {"c": sharded / SECOND}
    assert "index.json is out of date: 1 of the weights that it lists are not in" in caplog.text
    assert "(c, b)" in caplog.text
    check_listed(stored, {"a.weight", "b"})
    with pytest.raises(WeightsError, match=rf"{SECOND} lacks c, which .*index\.json .* lists"):
        check_listed(stored, {"a.weight", "c"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pytorch_model.bin",
            r"pytorch_model\.bin is pickled, and unpickling can run code\. Convert it to "
            r"safetensors",
        ),
        ("notes.txt", r"contains neither model\.safetensors nor model\.safetensors\.index\.json"),
    ],
)
def test_folder_without_safetensors_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=message):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", r"none\.safetensors does not exist"),
        ("none.ckpt", r"none\.ckpt does not exist"),
        ("model.bin", "is pickled"),
        ("model.gguf", "is not a readable weights file"),
    ],
)
def test_unsupported_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        open_weights(tmp_path / name)


# Lightning checkpoints


class MaliciousPickle:
    """An object that runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.file,))


def test_malicious_checkpoint_is_refused_without_running_code(tmp_path: Path) -> None:
    torch.save({"state_dict": MaliciousPickle(tmp_path / "touched")}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=r"last\.ckpt is corrupt or not a checkpoint"):
        open_weights(tmp_path / "last.ckpt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncate off"])
def test_corrupt_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    file = checkpoint(tmp_path)
    assert read_checkpoint(file)["global_step"] == 2
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{file} is corrupt or not a checkpoint"):
        read_checkpoint(file)


def test_checkpoint_of_other_program_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"net.weight": torch.zeros(2)}}, tmp_path / "last.ckpt")
    with pytest.raises(
        WeightsError,
        match=r"last\.ckpt is not a checkpoint of a run: no weight in its state_dict starts",
    ):
        open_weights(tmp_path / "last.ckpt")


# Loading into a model


def meta_tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_check_state_dict_names_every_misfit() -> None:
    expected = meta_tensors(kept=(2,), one=(1,), two=(2,), wide=(3, 4))
    found = meta_tensors(kept=(2,), wide=(4, 3), more=(1,), most=(2,))
    names = [f"layers.{number}.mlp.0.weight" for number in (0, 1, 2, 5, 11)]
    layers = meta_tensors(**dict.fromkeys(names, (2, 2)))
    with pytest.raises(WeightsError) as refusal:
        check_state_dict(expected | layers, found, "this file")
    assert str(refusal.value).splitlines() == [
        "this file does not fit the model",
        "  missing: one",
        "  missing: two",
        "  missing: layers.{0-2,5,11}.mlp.0.weight",
        "  unexpected: more",
        "  unexpected: most",
        "  wrong shape: wide is (4, 3) and has to be (3, 4)",
    ]
    with pytest.raises(WeightsError, match=r"does not fit the model\n  missing: two$"):
        found = meta_tensors(kept=(2,), wide=(3, 4))
        check_state_dict(expected, found, "it", lambda name: name == "one")
    check_state_dict(expected, expected, "it")


def test_load_into_copies_one_tensor_at_a_time_and_casts() -> None:
    model = nn.Linear(4, 3)
    read_names: list[str] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in ("weight", "bias"):
            read_names.append(name)
            yield name, WEIGHTS[f"a.{name}"]
            param: Tensor = model.get_parameter(name)
            assert torch.equal(param, WEIGHTS[f"a.{name}"].float()) and param.dtype == torch.float32

    load_into(model, tensors())
    assert read_names == ["weight", "bias"]
