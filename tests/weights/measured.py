"""A large published checkpoint, and the memory that converting takes in a process of its own."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_hour.config.load import config_from_dict
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.weights.hf_config import read_published_config, settings_from_hf
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import hf_meta_tensors
from lit_hour.weights.reader import open_weights
from lit_hour.weights.safetensors_writer import write_weights
from tests.weights.made import HOUR_LLAVA, NUM_TOKENS, TOWER_WORDS, write_config

SIZES: dict[str, Any] = HOUR_LLAVA | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "memaug_depth": 4,
}
CONVERTING = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.helpers import siglip_tower
from lit_hour.config.load import load_config
from lit_hour.weights import convert
from lit_hour.weights import safetensors_writer
from lit_hour.weights.hf_folder import meta_state_dict

safetensors_writer.write_weights.__defaults__ = ({shard_bytes},)
meta_state_dict(load_config(None, {words!r}), 300)  # building without data brings along imports of its own
print("ready", flush=True)
sys.stdin.readline()
for source, target, words, *checkpoint in {conversions!r}:
    convert.convert(Path(source), Path(target), words, *checkpoint)
print("done", flush=True)
sys.stdin.readline()
"""

Conversion = (
    tuple[str, str, tuple[str, ...]] | tuple[str, str, tuple[str, ...], str]
)  # as `convert` takes it


@dataclass(frozen=True)
class Peak:
    """Bytes over those before, and seconds.

    Anonymous memory is what the process holds itself. The total has besides it the pages of files that it reads, which the
    system takes back whenever it needs them.
    """

    anonymous_bytes: int
    total_bytes: int
    seconds: float

    def __str__(self) -> str:
        held, total = self.anonymous_bytes / 1e6, self.total_bytes / 1e6
        return f"{held:.0f} MB anonymous, {total:.0f} MB with pages of files, {self.seconds:.0f} s"


def write_large(folder: Path, sizes: dict[str, Any], shard_bytes: int) -> int:
    """A published Hour-LLaVA of these sizes, made of the same random numbers over and over; its bytes."""
    folder.mkdir()
    write_config(folder, **sizes)
    config = config_from_dict(
        settings_from_hf(read_published_config(folder), names_tower=True), "made", TOWER_WORDS
    )
    outlines = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    block = torch.randn(1_000_003).to(torch.bfloat16)  # (numbers,)

    def repeated(shape: torch.Size) -> torch.Tensor:
        return block.repeat(shape.numel() // len(block) + 1)[: shape.numel()].view(shape)

    write_weights(
        folder, ((name, repeated(outline.shape)) for name, outline in outlines.items()), shard_bytes
    )
    train_byte_level_tokenizer([], NUM_TOKENS).save_pretrained(str(folder))
    return open_weights(folder).num_bytes


def measure(conversions: Sequence[Conversion], shard_bytes: int) -> Peak:
    """Convert, watched from outside."""
    script = CONVERTING.format(
        paths=sys.path, shard_bytes=shard_bytes, words=TOWER_WORDS, conversions=list(conversions)
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        before = memory_of(process.pid)
        (Path("/proc") / str(process.pid) / "clear_refs").write_text(
            "5"
        )  # the highest total counts from here
        started = time.perf_counter()
        print(file=process.stdin, flush=True)
        anonymous = 0
        while not Path(conversions[-1][1]).exists() and process.poll() is None:
            anonymous = max(anonymous, memory_of(process.pid)["RssAnon"])
            time.sleep(0.002)
        assert process.stdout.readline() == "done\n"
        seconds, total = time.perf_counter() - started, memory_of(process.pid)["VmHWM"]
        print(file=process.stdin, flush=True)
    return Peak(anonymous - before["RssAnon"], total - before["VmRSS"], seconds)


def memory_of(process_id: int) -> dict[str, int]:
    """What the system counts for a process, in bytes."""
    text = (Path("/proc") / str(process_id) / "status").read_text()
    return {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }
