"""Peak memory of converting a large published checkpoint, measured in a subprocess.

Entry points: `write_large` and `measure`.
"""

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
from tests.weights.factories import HOUR_LLAVA, NUM_TOKENS, TOWER_OVERRIDES, write_config

LARGE_CONFIG: dict[str, Any] = HOUR_LLAVA | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "memaug_depth": 4,
}
CONVERT_SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.helpers import siglip_tower
from lit_hour.config.load import load_config
from lit_hour.weights import convert
from lit_hour.weights import safetensors_writer
from lit_hour.weights.hf_folder import meta_state_dict

safetensors_writer.write_weights.__defaults__ = ({shard_bytes},)
# import the dependencies before the measurement
meta_state_dict(load_config(None, {overrides!r}), 300)
print("ready", flush=True)
sys.stdin.readline()
for source, target, overrides, *checkpoint in {conversions!r}:
    convert.convert(Path(source), Path(target), overrides, *checkpoint)
print("done", flush=True)
sys.stdin.readline()
"""

# arguments of `convert`
Conversion = tuple[str, str, tuple[str, ...]] | tuple[str, str, tuple[str, ...], str]


@dataclass(frozen=True)
class Peak:
    """Peak memory above the start of the conversion, in bytes, and duration in seconds.

    Anonymous memory is allocated by the process. The total also counts pages of mapped files, which
    the system can reclaim at any time.
    """

    anonymous_bytes: int
    total_bytes: int
    seconds: float

    def __str__(self) -> str:
        held, total = self.anonymous_bytes / 1e6, self.total_bytes / 1e6
        return f"{held:.0f} MB anonymous, {total:.0f} MB with pages of files, {self.seconds:.0f} s"


def write_large(folder: Path, sizes: dict[str, Any], shard_bytes: int) -> int:
    """Write a published Hour-LLaVA of these sizes and return its size in bytes.

    The weights repeat one block of random numbers.
    """
    folder.mkdir()
    write_config(folder, **sizes)
    config = config_from_dict(
        settings_from_hf(read_published_config(folder), names_tower=True), "made", TOWER_OVERRIDES
    )
    meta_tensors = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    block = torch.randn(1_000_003).to(torch.bfloat16)  # (1_000_003,)

    def repeat_block(shape: torch.Size) -> torch.Tensor:
        return block.repeat(shape.numel() // len(block) + 1)[: shape.numel()].view(shape)

    write_weights(
        folder,
        ((name, repeat_block(meta_tensor.shape)) for name, meta_tensor in meta_tensors.items()),
        shard_bytes,
    )
    train_byte_level_tokenizer([], NUM_TOKENS).save_pretrained(str(folder))
    return open_weights(folder).num_bytes


def measure(conversions: Sequence[Conversion], shard_bytes: int) -> Peak:
    """Run the conversions in a subprocess and return its peak memory."""
    script = CONVERT_SCRIPT.format(
        paths=sys.path,
        shard_bytes=shard_bytes,
        overrides=TOWER_OVERRIDES,
        conversions=list(conversions),
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        before = process_memory(process.pid)
        # reset VmHWM, the peak of resident memory
        (Path("/proc") / str(process.pid) / "clear_refs").write_text("5")
        started = time.perf_counter()
        print(file=process.stdin, flush=True)
        anonymous = 0
        while not Path(conversions[-1][1]).exists() and process.poll() is None:
            anonymous = max(anonymous, process_memory(process.pid)["RssAnon"])
            time.sleep(0.002)
        assert process.stdout.readline() == "done\n"
        seconds, total = time.perf_counter() - started, process_memory(process.pid)["VmHWM"]
        print(file=process.stdin, flush=True)
    return Peak(anonymous - before["RssAnon"], total - before["VmRSS"], seconds)


def process_memory(process_id: int) -> dict[str, int]:
    """Return the memory counters of /proc/PID/status, in bytes."""
    text = (Path("/proc") / str(process_id) / "status").read_text()
    return {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }
