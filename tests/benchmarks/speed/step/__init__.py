"""Target 4: a training step of the 3B shapes on an encoded hour (GPU), and of the tiny model (CPU).

The tiny model is compared with plain formulas. Both run as in `train.py`: the data module reads
shards from disk, Lightning's Trainer takes the steps, and TensorBoard logs.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import lightning as L
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.synthetic.packing import build_and_pack
from lit_hour.text.tokenizer import load_tokenizer, train_byte_level_tokenizer
from lit_hour.training.fit import make_tokenizer
from lit_hour.training.flops import shapes_of, step_flops
from lit_hour.training.module import HourLLaVAModule, forgetting_generators
from lit_hour.training.optim import build_optimizer
from lit_hour.training.parallelize import TRUE_BF16
from tests import published_stage
from tests.benchmarks.speed.harness.matrix_rate import data_sheet_rate, matrix_rate
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.step.noise_features import write_noise
from tests.benchmarks.speed.step.reference import plain_loss
from tests.benchmarks.speed.step.timed_steps import Steps, take_steps

CONFIGS = Path(__file__).parents[4] / "conf"
TARGET = 4
NUM_ROUNDS = 4
NUM_WARMUP = 3  # steps of each round that do not count: workers start, a GPU selects kernels
NUM_TINY_STEPS, NUM_HOUR_STEPS = 23, 10
HOUR_FRAMES, NUM_HOURS = 3600, 2
LOSS_TOLERANCE = 1e-3  # relative, after all steps of a round; the first is equal to 1e-5
FLOP_TOLERANCE = 0.02
NOISE_STD = 0.02
TINY_DATA = (  # as in conf/tiny.yaml, with fewer videos and none of an hour
    "synthetic.num_videos=24",
    "synthetic.num_val_videos=1",
    "synthetic.num_hour_videos=0",
    "synthetic.duration_seconds=60",
    "synthetic.difficulty=easy",
)
STAGE_3 = (
    "training.init_from=",
    "training.strategy=auto",
    "training.precision=bf16-true",
    "model.llm.vocab_size=151936",
    "data.global_batch_size=1",
    *(
        f"data.sources.{name}.weight=0"
        for name in (
            "llava_onevision_text",
            "llava_onevision_single_image",
            "llava_onevision_multi_image",
            "llava_video_178k",
        )
    ),
)
TINY_ENCODED = (
    "training.learning_rate.vision=0",
    "data.global_batch_size=1",
    "data.micro_batch_size=1",
)


def measure() -> Iterator[Outcome]:
    """Measure the tiny model's step, check the operation count, and measure the 3B shapes."""
    with TemporaryDirectory() as folder:
        yield tiny_step(Path(folder))
    with TemporaryDirectory() as folder:
        yield count_operations(Path(folder))
    if not torch.cuda.is_available():
        goal = Goal("at least", 0.45, "limit")
        why = (
            "needs a GPU with 80 GB in which the 3B shapes train in bf16, and 3 GB of disk;"
            " 3 minutes"
        )
        yield Outcome(
            TARGET,
            "a training step of the 3B shapes on an encoded hour",
            "TFLOP/s",
            goal=goal,
            why=why,
        )
        return
    with TemporaryDirectory() as folder:
        yield from hour_step(Path(folder))


# The tiny model, on frames


def tiny_step(folder: Path) -> Outcome:
    """Measure a step of `make train`, alternating with plain formulas on the same batches."""
    overrides = [*TINY_DATA, f"training.max_steps={NUM_TINY_STEPS}"]
    config = load_config(CONFIGS / "tiny_model.yaml", [*overrides, *path_overrides(folder)])
    print("making and packing 24 videos of a minute", flush=True)
    build_and_pack(config)
    torch.set_num_threads(config.training.num_threads)
    run = RunDir.from_config(config.run)
    run.path.mkdir(parents=True)
    make_tokenizer(config, run)
    rounds = [
        tiny_round(config, HourLLaVAProcessor(load_tokenizer(run.tokenizer), config.text))
        for _ in range(NUM_ROUNDS)
    ]
    best = min(rounds, key=lambda result: result.seconds)
    plain_seconds = min(result.plain_seconds for result in rounds)
    ratios = ", ".join(f"{result.seconds / result.plain_seconds:.2f}" for result in rounds)
    core_ratio = min(result.core_seconds for result in rounds) / min(
        result.plain_core_seconds for result in rounds
    )
    difference = max(result.difference for result in rounds)
    print(
        f"  rounds: {ratios}; core seconds: {core_ratio:.2f};"
        f" losses differ by {difference:.1e} at most"
    )
    breakdown = ", ".join(f"{part} {1e3 * seconds:.0f} ms" for part, seconds in best.parts.items())
    print(f"  the best step: {breakdown}")
    return Outcome(
        TARGET,
        "tiny model, a step of make train, data and logging included",
        "s",
        ours=best.seconds,
        peer=plain_seconds,
        peer_name="plain formulas, no data, no logging",
        goal=Goal("at most", 1.0),
        why=f"{core_ratio:.2f} of the core seconds, but the reading process occupies the other"
        f" core; {breakdown}",
    )


@dataclass(frozen=True)
class Round:
    """Seconds of a step by part, and of a plain one; CPU seconds of both; difference of losses."""

    parts: dict[str, float]
    plain_seconds: float
    core_seconds: float
    plain_core_seconds: float
    difference: float

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.parts.values())


def tiny_round(config: Config, processor: HourLLaVAProcessor) -> Round:
    """Take steps through Lightning, then plain ones from the same weights on the same batches."""
    L.seed_everything(config.run.seed, verbose=False)
    module = HourLLaVAModule(config, len(processor.tokenizer), config.training.max_steps)
    plain = copy.deepcopy(module)
    steps = take_steps(config, processor, module)
    seconds, core_seconds, losses = take_plain_steps(plain, steps)
    differences = [abs(one / other - 1) for one, other in zip(steps.losses, losses, strict=True)]
    if differences[0] > 1e-5 or max(differences) > LOSS_TOLERANCE:
        raise ValueError(f"the plain formulas differ in their losses by {differences}")
    parts, plain_seconds = steps.mean_seconds(NUM_WARMUP), mean(seconds[NUM_WARMUP:])
    print(f"  {sum(parts.values()):.3f} s a step, plain {plain_seconds:.3f} s", flush=True)
    return Round(
        parts,
        plain_seconds,
        mean(steps.core_seconds[NUM_WARMUP:]),
        mean(core_seconds[NUM_WARMUP:]),
        max(differences),
    )


def take_plain_steps(
    module: HourLLaVAModule, steps: Steps
) -> tuple[list[float], list[float], list[float]]:
    """Run a bare loop over batches in memory; return seconds, CPU seconds and loss of each step."""
    model, settings = module.model.train(), module.config.training
    built = build_optimizer(model, settings, module.num_steps)
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    seconds, core_seconds, losses = [], [], []
    for batch in steps.batches:
        started, started_core = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = plain_loss(model, batch, forgetting_generators(batch, module.config.run.seed))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - started)
        core_seconds.append(time.process_time() - started_core)
    return seconds, core_seconds, losses


# Encoded videos: the tiny model to count operations, the 3B shapes to time them


def count_operations(folder: Path) -> Outcome:
    """Compare the formula with torch's operation counter, which counts the masked half too."""
    config = load_config(
        CONFIGS / "tiny_model.yaml",
        [*TINY_ENCODED, "training.max_steps=1", *path_overrides(folder, "noise")],
    )
    module, steps = encoded_steps(config, folder, 64, 1)
    model, batch = module.model, steps.batches[0]
    shapes = shapes_of(model, batch)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch, forgetting_generators(batch, module.config.run.seed)).loss.backward()
    counted = float(counter.get_total_flops())
    formula = sum(step_flops(config, model.llm.vocab_size, shapes, causal_share=1.0).values())
    print(
        f"  {shapes}\n  formula {formula / 1e9:.4f} GFLOP,"
        f" torch's counter {counted / 1e9:.4f} GFLOP",
        flush=True,
    )
    if abs(formula / counted - 1) > FLOP_TOLERANCE:
        raise ValueError(f"the formula gives {formula:.4g} operations, torch counts {counted:.4g}")
    return Outcome(
        TARGET,
        "operations of a step by the formula, tiny model",
        "GFLOP",
        ours=formula / 1e9,
        peer=counted / 1e9,
        peer_name="torch's FlopCounterMode",
        why="the counter counts only matrix products: no norms, activations, softmax or optimizer."
        " A difference above 2% is an error",
    )


def hour_step(folder: Path) -> Iterator[Outcome]:
    """Measure the 3B shapes on an encoded hour, without recomputation if it fits."""
    config, module, steps = hour_steps(folder)
    yield from step_rows(
        "the 3B shapes on an encoded hour", config, module, steps, torch.device("cuda")
    )


def step_rows(
    what: str, config: Config, module: HourLLaVAModule, steps: Steps, device: torch.device
) -> Iterator[Outcome]:
    """Yield the rate of the operations of a step, and its share of the data sheet's rate."""
    parts = steps.mean_seconds(NUM_WARMUP)
    seconds = sum(parts.values())
    module.to(device)  # Lightning has moved it to the CPU
    flops = step_flops(
        config,
        module.model.llm.vocab_size,
        shapes_of(module.model, steps.batches[-1].to(device)),
    )
    breakdown = ", ".join(
        f"{part} {1e3 * part_seconds:.0f} ms" for part, part_seconds in parts.items()
    )
    print(f"  {seconds:.3f} s a step: {breakdown}")
    print(
        "  "
        + ", ".join(f"{part} {part_flops / 1e12:.1f} TFLOP" for part, part_flops in flops.items()),
        flush=True,
    )
    recomputing = config.training.activation_checkpointing
    mode = "recomputing" if recomputing else "without recomputing"
    is_gpu = device.type == "cuda"
    peak = f", peak memory {torch.cuda.max_memory_allocated(device) / 1e9:.0f} GB" if is_gpu else ""
    dtype = module.model.frame_newline.dtype
    outcome = Outcome(
        TARGET,
        f"a training step of {what}, {mode}",
        "TFLOP/s",
        ours=sum(flops.values()) / seconds / 1e12,
        limit=matrix_rate(device, dtype) / 1e12,
        limit_name=f"{str(dtype).removeprefix('torch.')} matrix product here",
        goal=Goal("at least", 0.45, "limit") if is_gpu else None,
        why=f"{seconds:.2f} s a step{peak}: {breakdown}",
    )
    yield outcome
    if sheet := data_sheet_rate(device):
        yield Outcome(
            TARGET,
            f"the same against the data sheet of {torch.cuda.get_device_name(device)}",
            "TFLOP/s",
            ours=outcome.ours,
            limit=sheet / 1e12,
            limit_name="data sheet, dense bf16",
        )


def hour_steps(folder: Path) -> tuple[Config, HourLLaVAModule, Steps]:
    """Take steps without activation checkpointing if they fit, or else with it."""
    overrides = [
        *STAGE_3,
        f"training.max_steps={NUM_HOUR_STEPS}",
        *path_overrides(folder, "video_marathon"),
    ]
    for recomputing in ("false", "true"):
        config = load_config(
            published_stage("3b", "s3"),
            [*overrides, f"training.activation_checkpointing={recomputing}"],
        )
        try:
            return config, *encoded_steps(config, folder, HOUR_FRAMES, NUM_HOURS)
        except torch.OutOfMemoryError as error:
            print(f"  activation_checkpointing={recomputing} does not fit: {error}", flush=True)
        gc.collect()  # the failed attempt is part of a reference cycle
        torch.cuda.empty_cache()
    raise MemoryError("a step of the 3B shapes does not fit into this GPU")


def encoded_steps(
    config: Config, folder: Path, num_frames: int, num_videos: int
) -> tuple[HourLLaVAModule, Steps]:
    """Take steps on shards of noise features, with random weights."""
    L.seed_everything(config.run.seed, verbose=False)
    tokenizer = train_byte_level_tokenizer([], 300)  # every byte is a token
    processor = HourLLaVAProcessor(tokenizer, config.text)
    module_class = NoiseModule if config.training.precision == TRUE_BF16 else HourLLaVAModule
    module = module_class(config, len(processor.tokenizer), config.training.max_steps)
    if not (folder / "features").exists():
        write_noise(folder / "features", num_videos, num_frames, config, module.model.vision)
    return module, take_steps(config, processor, module, keep_batches=False)


class NoiseModule(HourLLaVAModule):
    """A module that draws its weights on the device, which is quick for billions of them."""

    def configure_model(self) -> None:
        """Draw small noise when the model leaves the meta device."""
        is_new = next(self.model.parameters()).is_meta
        self._weights_from_checkpoint = True  # no others are drawn
        super().configure_model()
        if is_new:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.normal_(std=NOISE_STD)


def path_overrides(folder: Path, source: str = "") -> Sequence[str]:
    """Return overrides that keep runs in a folder, with synthetic videos or features."""
    synthetic = [
        f"synthetic.folder={folder}/world",
        f"data.sources.world.shards={folder}/world/train/shards",
    ]
    return [
        f"run.folder={folder}/runs",
        *([f"data.sources.{source}.shards={folder}/features"] if source else synthetic),
    ]
