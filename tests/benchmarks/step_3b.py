"""One training step of the 3B shapes on an hour of video, on one GPU: python tests/benchmarks/step_3b.py [key=value ...]

The hour is given as 3,600 frames of 8 x 8 tokens that a vision encoder would have made; they and all weights are random. What
learns, and how, is as in stage 3. Words are settings: training.precision=bf16-mixed for weights in float32, or
training.compile=true. `--tiny` takes the smallest model and a few frames instead, on a CPU too, to try the way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY)]

from lit_hour.config.load import load_config  # noqa: E402
from lit_hour.config.schema import Config  # noqa: E402
from lit_hour.model.hour_llava import HourLLaVA  # noqa: E402
from lit_hour.model.materialise import materialise  # noqa: E402
from lit_hour.processor import Processor  # noqa: E402
from lit_hour.text.tokenizer import learn_byte_level_tokenizer  # noqa: E402
from lit_hour.training.blocks import blocks_of, checkpoint_blocks, compile_blocks  # noqa: E402
from lit_hour.training.optim import build_optimizer, freeze_parts  # noqa: E402
from lit_hour.types import Batch, Features, Question, Sample  # noqa: E402

STAGE = REPOSITORY / "conf" / "hour_llava_3b_s3.yaml"
HOUR = ("training.activation_checkpointing=true", "training.precision=bf16-true", "model.language.vocabulary_size=151936")
TINY = REPOSITORY / "conf" / "tiny_model.yaml"
NUM_STEPS = 3  # the first one also finds kernels and makes the optimizer's state
DEVIATION = 0.02


@dataclass(frozen=True)
class Step:
    """What one step took."""

    loss: float
    seconds: float
    peak_gigabytes: float


def build(config: Config, device: torch.device) -> HourLLaVA:
    """The model with random weights, made on the device."""
    with torch.device("meta"):
        model = HourLLaVA(config, config.model.language.vocabulary_size)
    if config.training.precision == "bf16-true":
        model.bfloat16()
    materialise(model, device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=DEVIATION)
    freeze_parts(model, config.training)
    if config.training.compile:
        compile_blocks(blocks_of(model))
    if config.training.activation_checkpointing:
        checkpoint_blocks(blocks_of(model))
    return model.train()


def make_batch(config: Config, vision_dim: int, num_frames: int, device: torch.device) -> Batch:
    """One video, and one conversation of as many questions as a sample has."""
    tokens = torch.randn(num_frames, config.model.vision.grid**2, vision_dim, dtype=torch.bfloat16)  # (frames, tokens, dim)
    video = Features(tokens, torch.arange(num_frames).float())
    asked = Question("1", "", "open_ended", "What does the cook do with the onions before the guests arrive?", "She cuts them.")
    processor = Processor(learn_byte_level_tokenizer([], 300), config.text)
    conversation = processor.converse([asked] * config.data.questions_per_sample)
    sample = Sample("hour", "made", float(num_frames), video, (conversation,))
    return processor.batch([processor.example(sample)]).to(device)


def measure(config: Config, num_frames: int, device: torch.device) -> list[Step]:
    """Do a few steps, and measure each; what they work on is printed."""
    model = build(config, device)
    batch = make_batch(config, model.vision.dim, num_frames, device)
    optimizer = build_optimizer(model, config.training, NUM_STEPS)["optimizer"]
    with torch.no_grad(), autocast(config, device):
        repositories = model.remember(batch.visuals)
        inputs = model.read(batch, repositories, [Generator().manual_seed(0)])
    print(
        f"{sum(map(torch.numel, model.parameters())) / 1e9:.2f} billion parameters, {num_frames} frames,"
        f" {len(repositories[0].tokens)} tokens in memory, {inputs.embeddings.shape[1]} tokens for the language model"
    )
    del repositories, inputs
    return [do_step(model, batch, optimizer, config, device) for _ in range(NUM_STEPS)]


def do_step(model: HourLLaVA, batch: Batch, optimizer: torch.optim.Optimizer, config: Config, device: torch.device) -> Step:
    """Forward, backward, clip, step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    with autocast(config, device):
        loss = model(batch, [Generator().manual_seed(0)])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    found = float(loss.detach())  # which waits for the device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Step(found, time.perf_counter() - started, peak / 1e9)


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """As Lightning does it for bf16-mixed."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16-mixed")


def main(words: Sequence[str]) -> None:
    """Measure and print, or say why not."""
    is_tiny, settings = "--tiny" in words, [word for word in words if word != "--tiny"]
    if is_tiny:
        config, num_frames = load_config(TINY, ["model.language.vocabulary_size=400", *settings]), 8
    else:
        config, num_frames = load_config(STAGE, [*HOUR, *settings]), 3600
    if not (is_tiny or torch.cuda.is_available()):
        print("skipped: a step of the 3B shapes needs a GPU, and there is none; --tiny tries the way on a CPU")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(torch.cuda.get_device_name() if device.type == "cuda" else "CPU", config.training.precision)
    for number, step in enumerate(measure(config, num_frames, device), start=1):
        print(f"step {number}: loss {step.loss:.3f}, {step.seconds:.2f} s, peak memory {step.peak_gigabytes:.1f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
