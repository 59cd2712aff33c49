import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_hour.errors import WeightsError
from lit_hour.weights.reader import open_weights
from lit_hour.weights.safetensors_writer import check_empty, complete_or_absent, write_weights
from tests.helpers.fork import fork_ranks

KILOBYTE = 1000


def write_on_limited_disk(target: Path) -> None:
    """Write 44 kB where, as on a full disk, writing beyond 20 kB of a file fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * KILOBYTE, 20 * KILOBYTE))
    with complete_or_absent(target, 0) as unfinished:
        tensors = [("a", torch.zeros(1000)), ("b", torch.zeros(10_000))]
        write_weights(unfinished, tensors, shard_bytes=4 * KILOBYTE)


def kilobytes(num: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(0, 256, (num * KILOBYTE,), dtype=torch.uint8).to(dtype)


def test_shards_stay_below_limit_unless_one_weight_exceeds_it(tmp_path: Path) -> None:
    tensors = {
        name: kilobytes(size) for name, size in {"a": 4, "b": 5, "c": 2, "d": 20, "e": 1}.items()
    }
    write_weights(tmp_path, tensors.items(), shard_bytes=10 * KILOBYTE)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert index["weight_map"] == {
        "a": shards[0],
        "b": shards[0],
        "c": shards[1],
        "d": shards[2],
        "e": shards[3],
    }
    assert index["metadata"]["total_size"] == 32 * KILOBYTE
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *shards,
        "model.safetensors.index.json",
    ]
    assert all(
        torch.equal(tensor, tensors[name]) for name, tensor in open_weights(tmp_path).tensors()
    )


def test_single_shard_has_no_index(tmp_path: Path) -> None:
    # a tensor that is not contiguous is stored contiguously
    write_weights(tmp_path, [("a", torch.arange(6).view(2, 3).T)])
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(open_weights(tmp_path).read("a"), torch.tensor([[0, 3], [1, 4], [2, 5]]))


def test_writer_reads_at_most_one_shard_ahead(tmp_path: Path) -> None:
    written: list[int] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for number in range(6):
            written.append(len(list(tmp_path.glob("*.safetensors"))))
            yield str(number), kilobytes(1)

    write_weights(tmp_path, tensors(), shard_bytes=2 * KILOBYTE)
    assert written == [0, 0, 0, 1, 1, 2]


def test_transformers_reads_the_shards(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
    }
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=50, tie_word_embeddings=False, **sizes))
    write_weights(tmp_path, model.state_dict().items(), shard_bytes=10 * KILOBYTE)
    model.config.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = Qwen2ForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


# Complete or absent


def test_folder_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with complete_or_absent(target, 0) as unfinished:
        (unfinished / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["target"] and (
        target / "file"
    ).is_file()


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), complete_or_absent(tmp_path / "target", 0) as unfinished:
        (unfinished / "file").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_run_that_starts_in_the_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with (
        pytest.raises(WeightsError, match="run exists and is not empty"),
        complete_or_absent(target, 0) as unfinished,
    ):
        (unfinished / "weights").write_bytes(b"x")
        (target / "lease").mkdir(parents=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "lease"]


def test_leftovers_of_killed_process_are_discarded(tmp_path: Path) -> None:
    (tmp_path / "target.unfinished").mkdir()
    (tmp_path / "target.unfinished" / "half").touch()
    with complete_or_absent(tmp_path / "target", 0) as unfinished:
        assert list(unfinished.iterdir()) == []


def test_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    outputs = [tmp_path / "output.txt"]
    process = fork_ranks(lambda _: write_on_limited_disk(tmp_path / "target"), outputs)
    assert process.wait() == [1]
    printed = process.output()
    assert "target could not be written: " in printed and "File too large" in printed
    assert "Free space, or choose another disk" in printed
    assert list(tmp_path.iterdir()) == outputs


def test_insufficient_disk_space_is_refused_before_writing(tmp_path: Path) -> None:
    with (
        pytest.raises(
            WeightsError,
            match=r"target could not be written: it needs 1000000000\.00 GB\. .* GB were free",
        ),
        complete_or_absent(tmp_path / "deep" / "target", 10**18),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_check_empty_refuses_nonempty_folder(tmp_path: Path) -> None:
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    (tmp_path / "file").touch()
    for filled in (tmp_path, tmp_path / "file"):
        with pytest.raises(
            WeightsError, match=rf"{filled} exists and is not empty\. Nothing is overwritten"
        ):
            check_empty(filled)
