"""`serving.precision`: dtypes of a loaded predictor, and the memory that loading takes."""

import ctypes
import gc
import multiprocessing.connection
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lit_hour.errors import MemoryFileError
from lit_hour.inference.attribution import attribute_answer
from lit_hour.inference.precision import precision_name, resolve_dtype
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.run_dir import RunDir
from lit_hour.weights.convert import convert
from tests.helpers.fork import FORK
from tests.helpers.toy_run import TrainedRun
from tests.inference.helpers import generate_text, random_frames
from tests.weights.factories import TOWER_OVERRIDES
from tests.weights.memory_probe import LARGE_CONFIG, process_memory, write_large

MEGABYTE = 1_000_000
SHARD_BYTES = 20 * MEGABYTE
TIMEOUT_SECONDS = 120
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(run: RunDir, precision: str) -> VideoPredictor:
    overrides = [f"serving.precision={precision}", "generation.max_new_tokens=4"]
    return VideoPredictor.from_run(run.path, "last", "cpu", overrides)


def test_weights_get_the_precision_and_tables_positions_and_times_stay_float32(
    trained: TrainedRun,
) -> None:
    for precision, dtype in DTYPES.items():
        model = load(trained.run, precision).model
        assert {weight.dtype for weight in model.parameters()} == {dtype}, precision
        assert not any(weight.requires_grad for weight in model.parameters()), precision
        assert model.llm.network.model.rotary_emb.inv_freq.dtype == torch.float32, precision


def test_every_precision_answers_and_gives_evidence(trained: TrainedRun) -> None:
    side = trained.project.config("none").video.image_size
    images = torch.randint(256, (6, 3, side, side), dtype=torch.uint8)
    frames = random_frames(6)
    for precision, dtype in DTYPES.items():
        predictor = load(trained.run, precision)
        memory = predictor.encode_visual(type(frames)(images, frames.timestamps), 6.0, "clip")
        repository = memory.repository
        assert repository.tokens.dtype == dtype, precision
        assert {cache.keys.dtype for cache in repository.kv_caches} == {dtype}, precision
        assert repository.timestamps.dtype == torch.float32, precision
        assert repository.positions.dtype == torch.int64, precision
        generate_text(predictor, memory, "What is shown?")
        curve = attribute_answer(predictor, memory, "What is shown?", "a red square").curve
        assert sum(share for _, share in curve) == pytest.approx(1, abs=1e-3), precision


def test_a_memory_of_another_precision_is_refused(trained: TrainedRun, tmp_path: Path) -> None:
    fp32, bf16 = load(trained.run, "fp32"), load(trained.run, "bf16")
    save_memory(fp32, fp32.encode_visual(None, 0.0, "nothing"), tmp_path / "memory")
    load_memory(fp32, tmp_path / "memory")
    with pytest.raises(MemoryFileError, match=r"serving\.precision was 'fp32', is 'bf16'"):
        load_memory(bf16, tmp_path / "memory")


def test_auto_is_bf16_on_a_gpu_that_has_it_and_fp32_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has_bf16 in (False, True):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda *, including_emulation, has=has_bf16: has
        )
        names = [precision_name(resolve_dtype("auto", device)) for device in ("cpu", "cuda:0")]
        assert names == ["fp32", "bf16" if has_bf16 else "fp32"]
        for precision, dtype in DTYPES.items():
            assert resolve_dtype(precision, "cuda") == dtype  # type: ignore[arg-type]


@dataclass(frozen=True)
class LoadMemory:
    """Bytes that a process allocates for a predictor at its peak, and when it is loaded."""

    peak: int
    resting: int


def measure_load(run: RunDir, precision: str) -> LoadMemory:
    """Load a run in a fork, and measure its anonymous memory above that before."""
    ours, theirs = multiprocessing.connection.Pipe()

    def work() -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # return free memory of the parent, which would be reused
        theirs.send("ready")
        theirs.recv()
        predictor = VideoPredictor.from_run(
            run.path, device="cpu", overrides=[f"serving.precision={precision}"]
        )
        theirs.send(precision_name(predictor.model.frame_newline.dtype))
        theirs.recv()
        os._exit(0)

    process = FORK.Process(target=work, daemon=True)
    process.start()
    theirs.close()  # so that `recv` fails if the fork ends early
    assert process.pid and ours.recv() == "ready"
    before = process_memory(process.pid)["RssAnon"]
    ours.send("go")
    peak, deadline = 0, time.monotonic() + TIMEOUT_SECONDS
    while not ours.poll() and process.is_alive():
        assert time.monotonic() < deadline, "loading takes too long"
        peak = max(peak, process_memory(process.pid)["RssAnon"])
        time.sleep(0.001)
    assert ours.recv() == precision
    resting = process_memory(process.pid)["RssAnon"]
    ours.send("end")
    process.join(30)
    return LoadMemory(max(peak, resting) - before, resting - before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_layers", "min_bytes", "slack_bytes"),
    [
        (1, 100 * MEGABYTE, 15 * MEGABYTE),
        pytest.param(7, 1000 * MEGABYTE, 40 * MEGABYTE, marks=pytest.mark.slow),
    ],
)
def test_a_converted_model_takes_its_bf16_size_in_memory(
    tmp_path: Path, num_layers: int, min_bytes: int, slack_bytes: int
) -> None:
    wide = {"hidden_size": 2048, "intermediate_size": 8192} if num_layers > 1 else {}
    sizes = LARGE_CONFIG | wide | {"vocab_size": 4000, "num_hidden_layers": num_layers}
    num_bytes = write_large(tmp_path / "published", sizes, SHARD_BYTES)
    assert num_bytes > min_bytes
    convert(tmp_path / "published", tmp_path / "run", TOWER_OVERRIDES)
    bf16 = measure_load(RunDir(tmp_path / "run"), "bf16")
    print(f"{num_bytes / 1e6:.0f} MB of weights, bf16: {bf16}")
    assert bf16.peak < num_bytes + slack_bytes, bf16
    assert num_bytes - slack_bytes < bf16.resting < num_bytes + slack_bytes, bf16
