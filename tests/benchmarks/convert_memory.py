"""Memory that converting takes, over what its imports need: python tests/benchmarks/convert_memory.py [GIGABYTES]

A published checkpoint of this size is made up in bf16, converted to a run and back, and once more from a Lightning
checkpoint, each in a process of its own. Anonymous memory is what the process holds itself; the total has besides it the
pages of files that it is reading, which the system takes back whenever it needs them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "interop")]

from made import HOUR_LLAVA, NUM_TOKENS, TOWER_WORDS, write_config

from lit_hour.config.load import config_from_dict
from lit_hour.interop.names import outline_published
from lit_hour.interop.published import outline_model, without_tied
from lit_hour.interop.settings import read_published_config, settings_of
from lit_hour.interop.writing import SHARD_BYTES, write_weights
from lit_hour.run import RunFolder
from lit_hour.text.tokenizer import learn_byte_level_tokenizer
from lit_hour.weights import open_weights

CONVERTING = """
import sys
sys.path[:0] = {paths!r}
import siglip_tower
from pathlib import Path
from lit_hour.interop import convert, writing
from lit_hour.interop.published import outline_model
from lit_hour.config.load import load_config

writing.write_weights.__defaults__ = ({shard_bytes},)
outline_model(load_config(None, {words!r}), 300)  # what building without data brings along
status = lambda: Path("/proc/self/status").read_text()
print("ready", flush=True)
sys.stdin.readline()
convert.convert(Path(sys.argv[1]), Path(sys.argv[2]), {words!r}, *sys.argv[3:])
print("done", flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Peak:
    """Bytes over those before, and seconds."""

    anonymous_bytes: int
    total_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.anonymous_bytes / 1e6:.0f} MB anonymous, {self.total_bytes / 1e6:.0f} MB with pages of files,"
            f" {self.seconds:.0f} s"
        )


def write_large(folder: Path, sizes: dict[str, Any], shard_bytes: int) -> int:
    """A published Hour-LLaVA of these sizes, made of the same random numbers over and over; its bytes."""
    folder.mkdir()
    write_config(folder, **sizes)
    config = config_from_dict(settings_of(read_published_config(folder), names_tower=True), "made", TOWER_WORDS)
    outlines = outline_published(without_tied(outline_model(config, 0), config))
    block = torch.randn(1_000_003).to(torch.bfloat16)  # (numbers,)

    def repeated(shape: torch.Size) -> torch.Tensor:
        return block.repeat(shape.numel() // len(block) + 1)[: shape.numel()].view(shape)

    write_weights(folder, ((name, repeated(outline.shape)) for name, outline in outlines.items()), shard_bytes)
    learn_byte_level_tokenizer([], NUM_TOKENS).save_pretrained(str(folder))
    return open_weights(folder).num_bytes


def measure(source: Path, target: Path, words: tuple[str, ...], shard_bytes: int, *checkpoint: str) -> Peak:
    """Convert in a process of its own, watched from outside."""
    script = CONVERTING.format(paths=sys.path, shard_bytes=shard_bytes, words=list(words))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(target), *checkpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        before = memory_of(process.pid)
        (Path("/proc") / str(process.pid) / "clear_refs").write_text("5")  # the highest total counts from here
        started = time.perf_counter()
        print(file=process.stdin, flush=True)
        anonymous = 0
        while not list(target.glob("*")) and process.poll() is None:
            anonymous = max(anonymous, memory_of(process.pid)["RssAnon"])
            time.sleep(0.002)
        assert process.stdout.readline() == "done\n"
        seconds = time.perf_counter() - started
        total = memory_of(process.pid)["VmHWM"]
        print(file=process.stdin, flush=True)
    return Peak(anonymous - before["RssAnon"], total - before["VmRSS"], seconds)


def memory_of(process_id: int) -> dict[str, int]:
    """What the system counts for a process, in bytes."""
    text = (Path("/proc") / str(process_id) / "status").read_text()
    return {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def as_checkpoint_of_training(run: RunFolder) -> None:
    """What the run would have had from training: one file, in float32."""
    stored = open_weights(run.checkpoints / "converted")
    torch.save(
        {"state_dict": {f"model.{name}": tensor.float() for name, tensor in stored.tensors()}}, run.checkpoints / "last.ckpt"
    )
    (run.checkpoints / "last.yaml").write_bytes((run.checkpoints / "converted.yaml").read_bytes())


def main(gigabytes: float) -> None:
    """Measure every direction and print what was measured."""
    num_rows = int(gigabytes * 100_000)
    layers = max(1, round(gigabytes * 16))
    sizes = {"vocab_size": num_rows, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 2, "memaug_depth": 4}
    with TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_large(folder / "published", HOUR_LLAVA | sizes, int(num_bytes_of_shard := 4e8))
        num_shards = len(list((folder / "published").glob("*.safetensors")))
        largest = max(outline.nbytes for outline in open_weights(folder / "published").outlines.values())
        print(f"{num_bytes / 1e9:.2f} GB in {num_shards} shards; largest weight {largest / 1e6:.0f} MB")
        for shard_bytes in (int(num_bytes_of_shard), SHARD_BYTES):
            run, back = folder / f"run {shard_bytes}", folder / f"back {shard_bytes}"
            print(f"written in shards of {shard_bytes / 1e6:.0f} MB:")
            print("  published -> run:                ", measure(folder / "published", run, TOWER_WORDS, shard_bytes))
            print("  run -> published:                ", measure(run, back, (), shard_bytes))
        as_checkpoint_of_training(RunFolder(run))
        trained = measure(run, folder / "trained", (), SHARD_BYTES, "last")
        print("  float32 .ckpt -> published:      ", trained)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
