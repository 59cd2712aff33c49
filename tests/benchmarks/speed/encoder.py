"""Target 5: the vision encoder's share of the device's matrix rate: so400m at 384 pixels.

Weights are random. On a GPU all 26 used blocks run in bf16, with several chunk sizes, memory
formats and torch.compile. On a CPU only the first blocks run, in float32, because all of them take
seconds per frame; the blocks are alike. Frames enter as uint8 and leave as 8 x 8 tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import open_clip
import torch
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.training.flops import encoder_flops
from lit_hour.training.parallelize import compile_blocks
from tests.benchmarks.speed.harness.matrix_rate import matrix_rate, synchronize
from tests.benchmarks.speed.harness.outcome import Goal, Outcome

TARGET = 5
GOAL = Goal("at least", 0.6, "limit")
NUM_CPU_BLOCKS, NUM_CPU_FRAMES, NUM_ROUNDS = 3, 4, 4
NUM_GPU_FRAMES, GPU_CHUNKS = 512, (8, 16, 32, 64, 128, 256)
TOLERANCE = 1e-4  # of our tokens against open_clip's own, relative to their size, in float32


def measure() -> Iterator[Outcome]:
    """Measure on this CPU, and on a GPU if there is one."""
    yield measure_on_cpu()
    if torch.cuda.is_available():
        yield measure_on_gpu()
    else:
        why = (
            "needs a GPU; a minute. It tries chunks of 8 to 256 frames, channels_last and"
            " torch.compile"
        )
        yield Outcome(TARGET, "so400m at 384 pixels, bf16", "TFLOP/s", goal=GOAL, why=why)


def measure_on_cpu() -> Outcome:
    """Run a few blocks on all 729 tokens, alternating with open_clip's forward of them."""
    print(f"building so400m, of which {NUM_CPU_BLOCKS} blocks are computed", flush=True)
    encoder, reference = build(VisionConfig())
    keep_blocks(encoder.tower.trunk, reference.visual.trunk, NUM_CPU_BLOCKS)
    images = make_frames(NUM_CPU_FRAMES, encoder.image_size, torch.device("cpu"))
    pixels = normalize(encoder, images)
    check_equal(encoder, reference, images, pixels)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: encoder.encode_images(images),
        "open_clip": lambda: reference.visual(pixels),
    }
    best, rate = dict.fromkeys(contenders, float("inf")), 0.0
    for _ in range(NUM_ROUNDS):
        rate = max(rate, matrix_rate(torch.device("cpu"), torch.float32))
        for name, encode in contenders.items():
            best[name] = min(best[name], seconds_of(encode, images.device))
        print(
            "  " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in best.items()),
            flush=True,
        )
    flops = NUM_CPU_FRAMES * encoder_flops(encoder.config)
    return Outcome(
        TARGET,
        f"so400m at 384 pixels, {NUM_CPU_BLOCKS} blocks, {torch.get_num_threads()} CPU threads,"
        " float32",
        "GFLOP/s",
        ours=flops / best["ours"] / 1e9,
        peer=flops / best["open_clip"] / 1e9,
        peer_name="open_clip's own forward of these blocks, on normalized pixels, with its"
        " pooling head",
        limit=rate / 1e9,
        limit_name="float32 matrix product here",
        goal=GOAL,
        why="softmax, GELU, norms and attention products of 729 rows do not reach the rate of a"
        " square product",
    )


def measure_on_gpu() -> Outcome:
    """Run all blocks in bf16 with several chunk sizes, then the other variants."""
    encoder = VisionEncoder(VisionConfig()).eval().to("cuda", torch.bfloat16)
    return measure_variants(encoder, "so400m at 384 pixels, bf16", NUM_GPU_FRAMES, GPU_CHUNKS)


def measure_variants(
    encoder: VisionEncoder, what: str, num_frames: int, chunks: tuple[int, ...]
) -> Outcome:
    """Return the best of all variants and chunk sizes, on the encoder's device."""
    weight = next(encoder.parameters())
    device, found = weight.device, dict[tuple[str, int], float]()
    images = make_frames(num_frames, encoder.image_size, device)
    flops = num_frames * encoder_flops(encoder.config)
    for variant, apply_variant in VARIANTS.items():
        if variant == COMPILED and device.type == "cpu":
            continue  # inductor takes minutes there
        apply_variant(encoder)
        best_chunk = (min(found, key=found.__getitem__)[1],) if found else ()
        for chunk_frames in best_chunk if variant == COMPILED else chunks:
            encode = in_chunks(encoder, images, chunk_frames)
            encode()  # selects kernels or compiles
            found[variant, chunk_frames] = min(
                seconds_of(encode, device) for _ in range(NUM_ROUNDS)
            )
            rate = flops / found[variant, chunk_frames] / 1e12
            print(f"  {variant}, {chunk_frames} frames: {rate:.3g} TFLOP/s", flush=True)
    variant, chunk_frames = min(found, key=found.__getitem__)
    usual = min(chunks, key=lambda size: abs(size - VisionConfig().encode_batch_size))
    default = flops / found["plain", usual] / 1e12
    return Outcome(
        TARGET,
        f"{what}, {variant}, {chunk_frames} frames at once",
        "TFLOP/s",
        ours=flops / found[variant, chunk_frames] / 1e12,
        limit=matrix_rate(device, weight.dtype) / 1e12,
        limit_name=f"{str(weight.dtype).removeprefix('torch.')} matrix product here",
        goal=GOAL if device.type == "cuda" else None,
        why=f"the best of {len(found)}; plain, {usual} frames at once {default:.3g} TFLOP/s;"
        " kernels pad the heads of 72 channels",
    )


COMPILED = "channels_last and torch.compile"  # at one size, because a second one compiles again
VARIANTS: dict[str, Callable[[VisionEncoder], Any]] = {  # each on top of the previous one
    "plain": lambda encoder: None,
    "channels_last": lambda encoder: encoder.tower.to(memory_format=torch.channels_last),
    COMPILED: lambda encoder: compile_blocks(encoder.blocks),
}


def build(settings: VisionConfig) -> tuple[VisionEncoder, Any]:
    """Build our encoder, and open_clip's reference model with the same weights."""
    encoder = VisionEncoder(settings).eval()
    reference = open_clip.create_model(settings.name, load_weights=False).eval()
    state = encoder.tower.state_dict()
    reference.visual.load_state_dict(state, strict=False, assign=True)
    for ours, theirs in zip(encoder.tower.modules(), reference.visual.modules(), strict=False):
        if isinstance(theirs, torch.nn.GELU) and isinstance(ours, torch.nn.GELU):
            theirs.approximate = ours.approximate
    return encoder, reference


def keep_blocks(ours: Any, theirs: Any, num_blocks: int) -> None:
    """Keep only the first blocks of both trunks."""
    ours.blocks, theirs.blocks = ours.blocks[:num_blocks], theirs.blocks[:num_blocks]


def check_equal(encoder: VisionEncoder, reference: Any, images: Tensor, pixels: Tensor) -> None:
    """Compare our tokens with open_clip's, pooled.

    Raises:
        ValueError: they differ by more than `TOLERANCE`.
    """
    with torch.inference_mode():
        trunk = reference.visual.trunk
        found = trunk.forward_intermediates(
            pixels[:1], indices=1, intermediates_only=True, output_fmt="NLC"
        )[0]
        theirs, ours = (
            encoder.pool(found),
            encoder.encode_images(images[:1]),
        )  # (1, tokens, vision_dim)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"  our tokens differ from open_clip's by {difference:.1e} of the largest", flush=True)
    if difference > TOLERANCE:
        raise ValueError(f"our tokens differ from open_clip's own by {difference:.1e}")


def in_chunks(encoder: VisionEncoder, images: Tensor, chunk_frames: int) -> Callable[[], Any]:
    """Return a function that encodes all frames, `chunk_frames` at a time."""
    return lambda: [encoder.encode_images(chunk) for chunk in images.split(chunk_frames)]


def make_frames(num_frames: int, size_pixels: int, device: torch.device) -> Tensor:
    """Return noise `(frames, 3, size, size)`, uint8."""
    return torch.randint(
        0, 256, (num_frames, 3, size_pixels, size_pixels), dtype=torch.uint8, device=device
    )


def normalize(encoder: VisionEncoder, images: Tensor) -> Tensor:
    """Return the input of open_clip, `(frames, 3, size, size)` float32."""
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (encoder.mean, encoder.std))
    return (images / 255 - mean) / deviation  # (frames, 3, size, size)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Return the duration of one call."""
    with torch.inference_mode():
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - started
