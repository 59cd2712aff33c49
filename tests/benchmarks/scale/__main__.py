"""Answer and train at the published sizes on a CPU: `python -m tests.benchmarks.scale 3b|7b`.

A random checkpoint of the published sizes is written in bf16 and converted to a run. A process
limited in memory then answers two questions about an hour of stored features, saves and loads the
memory, and two others take steps of stage 1, without and with LoRA. All times are printed as they
are measured; `--write` puts them into SCALE.md. Quick rehearsal: `--layers 2 --frames 64`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lit_hour.media.selective_decoding import num_available_cpus
from lit_hour.run_dir import RunDir
from lit_hour.weights.convert import CONVERTED
from lit_hour.weights.reader import open_weights
from tests.benchmarks.scale.measured import Finished, run_limited
from tests.benchmarks.scale.report import Measured, write_section
from tests.benchmarks.scale.roofline import Rates, answer_work
from tests.benchmarks.scale.setup import (
    VOCABULARY,
    Job,
    convert_checkpoint,
    write_checkpoint,
    write_features,
)

NUM_THREADS = 2
WEIGHTS_SHARE, SPARE_BYTES = 1.5, 3_000_000_000  # goal: 1.5 x weights + memory + 3 GB
GOALS = {"7b": 22_000_000_000}  # bytes that hold in addition
PARTS = ("answer", "train", "train-lora")
TITLES = {
    "answer": "Two questions about one memory",
    "train": "Stage 1: MemAug and the projector learn",
    "train-lora": "Stage 1 with LoRA adapters of the language model",
}
MODULES = {"answer": "answer", "train": "training_step", "train-lora": "training_step"}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("size", choices=sorted(VOCABULARY))
    parser.add_argument("--layers", type=positive, default=0, help="of the language model")
    parser.add_argument("--frames", type=positive, default=3600, help="of the video in questions")
    parser.add_argument("--train-frames", type=positive, default=256, help="of that in training")
    parser.add_argument("--tokens", type=positive, default=8, help="new tokens of an answer")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=positive, default=60, help="limit of each part")
    parser.add_argument("--folder", type=Path, help="keep the run there and use it again")
    parser.add_argument("--write", action="store_true", help="put the table into SCALE.md")
    parser.add_argument("--remark", default="", help="conditions, for the table")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Parse a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def prepare(job: Job) -> int:
    """Write the run and the features that are not there yet; return the bytes of the weights."""
    if not job.run.exists():
        shutil.rmtree(job.published, ignore_errors=True)  # of a killed start
        print(f"writing a random {job.size} checkpoint in the published layout", flush=True)
        num_bytes = write_checkpoint(job)
        print(f"converting {num_bytes / 1e9:.2f} GB", flush=True)
        convert_checkpoint(job)
    for num_frames in {job.num_frames, job.train_frames}:
        if not (Path(job.folder) / f"features-{num_frames}" / "index.json").exists():
            shutil.rmtree(Path(job.folder) / f"features-{num_frames}", ignore_errors=True)
            print(f"writing features of {num_frames} frames", flush=True)
            write_features(job, num_frames)
    return open_weights(RunDir(job.run).checkpoints / CONVERTED).num_bytes


def memory_bytes(job: Job) -> int:
    """Return the bytes of a memory in bf16: tokens, and keys and values of each MemAug block."""
    config = job.config()
    language = config.model.llm
    num_tokens = job.num_frames * (config.model.vision.grid**2 + 1)
    head_dim = language.hidden_size // language.num_heads
    keys_values = 2 * language.num_key_value_heads * head_dim
    return 2 * num_tokens * (language.hidden_size + config.model.memaug.num_layers * keys_values)


def main(argv: Sequence[str]) -> int:
    """Measure, print and write; return the exit status: 1 if a part has failed."""
    args = parse(argv)
    if args.folder is None:
        with TemporaryDirectory() as folder:
            return measure(args, Path(folder))
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: --folder {args.folder} cannot be made ({error.strerror}).", file=sys.stderr)
        return 2
    return measure(args, args.folder.absolute())


def measure(args: argparse.Namespace, folder: Path) -> int:
    """Measure the parts that the command line names, in a folder."""
    torch.set_num_threads(min(NUM_THREADS, num_available_cpus()))
    job = Job(args.size, str(folder), args.frames, args.layers, args.tokens, args.train_frames)
    weights_bytes = prepare(job)
    limit = int(WEIGHTS_SHARE * weights_bytes) + memory_bytes(job) + SPARE_BYTES
    limit = min(limit, GOALS.get(job.size, limit))
    rates = Rates.measure()
    print(f"{rates}; limit {limit / 1e9:.2f} GB", flush=True)
    processes: dict[str, Finished] = {}
    for part in args.parts:
        print(f"{TITLES[part]}:", flush=True)
        arguments = [job.to_json(), *([] if part == "answer" else [str(int(part != "train"))])]
        module = f"tests.benchmarks.scale.{MODULES[part]}"
        seconds = 60.0 * args.minutes
        processes[TITLES[part]] = run_limited(module, arguments, limit, NUM_THREADS, seconds)
        num_prompt = prompt_tokens(processes)
        work = answer_work(job.config(), job.num_frames, num_prompt)
        measured = Measured(job, limit, NUM_THREADS, processes, rates, work, args.remark)
        if args.write:  # after each part, so that an interruption loses only one
            write_section(measured.to_markdown())
    print(measured.to_markdown())
    return int(any(process.failure for process in processes.values()))


def prompt_tokens(processes: dict[str, Finished]) -> int:
    """Return the tokens that the language model got; 0 if no question has come so far."""
    parts = [part for process in processes.values() for part in process.parts]
    return next((int(part.value or 0) for part in parts if part.name.endswith("MemAug")), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
