"""Target 6: time to the first token of the first and of a later question, by part and length.

A synthetic video of one minute is repeated to 10 minutes, an hour and ten hours, and read as by
`lit-hour ask`. On a CPU the tiny model runs on one thread and reads all lengths from files. On a
GPU
the 3B shapes run: an hour is given as decoded frames, ten hours as features. Weights are random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lit_hour.config.load import load_config
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.video_plan import VideoPlan, generate_planned_story
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Features, Frames
from tests import published_stage
from tests.benchmarks.speed.harness.matrix_rate import synchronize
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.media.helpers import loop_video

CONFIGS = Path(__file__).parents[3] / "conf"
TARGET = 6
GOAL = Goal("at most", 0.05)
MINUTES = (1, 10, 60, 600)
HOUR = 60
NUM_ROUNDS = 2  # of the shorter videos; ten hours are read once
NUM_QUESTIONS, NUM_LONG_QUESTIONS = 10, 3
VIDEO_PIXELS, VIDEO_FRAMES_PER_SECOND = 256, 10
SETTINGS = ("video.max_frames=36000", "generation.max_new_tokens=1")
QUESTIONS = tuple(
    f"What does the figure do after the door has opened for the {number}. time?"
    for number in range(1, 11)
)


def measure() -> Iterator[Outcome]:
    """Measure the tiny model on this CPU, and the 3B shapes on a GPU if there is one."""
    torch.manual_seed(0)
    yield from measure_tiny_model()
    if torch.cuda.is_available():
        yield from measure_3b()
    else:
        why = (
            "needs a GPU with 80 GB; 5 minutes. It reads an hour of decoded frames, and ten hours "
            "of"
            " features"
        )
        yield Outcome(TARGET, "3B shapes, a next question about an hour", "s", goal=GOAL, why=why)


@dataclass(frozen=True)
class Latency:
    """Seconds to the first token.

    Attributes:
        first: of the first question, by part.
        following: of a later question.
        unprepared: of a later question without the KV cache of the memory.
    """

    first: dict[str, float]
    following: float
    unprepared: float

    @property
    def total(self) -> float:
        return sum(self.first.values())

    def __str__(self) -> str:
        return ", ".join(f"{part} {seconds:.3g} s" for part, seconds in self.first.items())


def measure_tiny_model() -> Iterator[Outcome]:
    """Measure all lengths from files, with everything included."""
    config = load_config(CONFIGS / "tiny_model.yaml", SETTINGS)
    torch.set_num_threads(config.training.num_threads)
    processor = HourLLaVAProcessor(
        train_byte_level_tokenizer([], 300), config.text
    )  # every byte is a token
    session = VideoPredictor(
        config, HourLLaVA.from_config(config, len(processor.tokenizer)), processor
    )
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        story = generate_planned_story(VideoPlan("clip", 1, 60.0), SyntheticConfig())
        render_story(story, clip, VIDEO_PIXELS, VIDEO_FRAMES_PER_SECOND)
        found: dict[int, Latency] = {}
        for minutes in MINUTES:
            video = Path(folder) / f"{minutes}.mp4"
            loop_video(clip, video, 60.0 * minutes)
            rounds = 1 if minutes == MINUTES[-1] else NUM_ROUNDS
            encode = partial(session.encode_video, video)
            latencies = [measure_latency(session, encode) for _ in range(rounds)]
            found[minutes] = min(latencies, key=lambda latency: latency.total)
            print_latency(minutes, found[minutes])
    video_kind = f"{VIDEO_PIXELS} x {VIDEO_PIXELS} pixels, {VIDEO_FRAMES_PER_SECOND} frames/s"
    yield from outcomes(f"tiny model, CPU, {video_kind}", found)


def measure_3b() -> Iterator[Outcome]:
    """Measure an hour of frames without decoding, and ten hours of features."""
    session = random_session(torch.device("cuda"))
    found: dict[int, Latency] = {}
    for minutes in MINUTES:
        encode = noise_video(session, minutes, has_frames=minutes <= HOUR)
        # one round more than counted, because the first one selects kernels
        rounds = [measure_latency(session, encode) for _ in range(1 + NUM_ROUNDS)]
        found[minutes] = min(rounds, key=lambda latency: latency.total)
        print_latency(minutes, found[minutes])
    yield from outcomes("3B shapes, bf16, frames decoded before (ten hours: encoded before)", found)


def random_session(device: torch.device, *overrides: str) -> VideoPredictor:
    """Return the 3B shapes with random weights in bf16."""
    settings = ["training.init_from=", "model.llm.vocab_size=151936", *SETTINGS, *overrides]
    config = load_config(published_stage("3b", "s3"), settings)
    processor = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), config.text)
    model = random_model(config, len(processor.tokenizer), device)
    return VideoPredictor(config, model, processor)


def noise_video(
    session: VideoPredictor, minutes: float, *, has_frames: bool
) -> Callable[[], VideoMemory]:
    """Return a function that encodes noise: frames in memory, or features on the device."""
    num_frames, vision = round(60 * minutes), session.model.vision
    timestamps = torch.arange(num_frames).float()  # (frames,)
    if has_frames:
        size = vision.image_size
        images = torch.randint(0, 256, (num_frames, 3, size, size), dtype=torch.uint8)
        visual: Frames | Features = Frames(images, timestamps)
    else:
        shape = num_frames, vision.tokens_per_frame, vision.dim
        tokens = torch.randn(shape, dtype=torch.bfloat16, device=session.device)
        visual = Features(tokens, timestamps)
    return partial(session.encode_visual, visual, float(num_frames), "noise")


def random_model(config: Any, vocabulary_size: int, device: torch.device) -> HourLLaVA:
    """Return a model with weights of small noise in bf16, created on the device."""
    with torch.device("meta"):
        model = HourLLaVA.from_config(config, vocabulary_size)
    model.bfloat16()
    model.materialize(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


def measure_latency(session: VideoPredictor, encode: Callable[[], VideoMemory]) -> Latency:
    """Encode a video, answer a first question, and then others."""
    with time_parts(session) as seconds:
        started = time.perf_counter()
        memory = encode()
        first_token_seconds(session, memory, QUESTIONS[0])
        total = time.perf_counter() - started
    parts = {"decode": memory.seconds.get("decode", 0.0), **seconds}
    parts["rest"] = total - sum(parts.values())
    questions = QUESTIONS[: NUM_QUESTIONS if memory.num_frames <= 60 * HOUR else NUM_LONG_QUESTIONS]
    following = median(first_token_seconds(session, memory, question) for question in questions)
    plain = replace(memory, repository=replace(memory.repository, kv_caches=()))
    unprepared = median(
        first_token_seconds(session, plain, question) for question in questions[:NUM_LONG_QUESTIONS]
    )
    return Latency(parts, following, unprepared)


@contextmanager
def time_parts(session: VideoPredictor) -> Iterator[dict[str, float]]:
    """Measure the seconds of disjoint parts of the model inside the block."""
    model = session.model
    methods: dict[str, tuple[Any, str]] = {
        "vision encoder": (model.vision, "forward"),
        "projector": (model.projector, "forward"),
        "KV cache of the memory": (model.memaug, "build_kv_caches"),
        "forgetting and MemAug": (model, "build_inputs"),
        "prefill and first token": (model.llm.network, "forward"),
    }
    seconds = dict.fromkeys(methods, 0.0)
    with ExitStack() as stack:
        for part, (owner, name) in methods.items():
            stack.enter_context(timed(owner, name, part, seconds, session.device))
        yield seconds


@contextmanager
def timed(
    owner: Any, name: str, part: str, seconds: dict[str, float], device: torch.device
) -> Iterator[None]:
    """Add up the time of a method of an object inside the block."""
    method = getattr(owner, name)

    def timed_method(*arguments: Any, **named: Any) -> Any:
        synchronize(device)
        started = time.perf_counter()
        result = method(*arguments, **named)
        synchronize(device)
        seconds[part] += time.perf_counter() - started
        return result

    setattr(owner, name, timed_method)
    try:
        yield
    finally:
        delattr(owner, name)  # uncovers the method of the class


def first_token_seconds(session: VideoPredictor, memory: VideoMemory, question: str) -> float:
    """Return the seconds from the question to its first token, the only one generated."""
    *_, answer = session.generate(memory, question)
    assert isinstance(answer, Answer)
    return answer.seconds["first_token"]


def print_latency(minutes: int, latency: Latency) -> None:
    """Print the latency for one length."""
    print(
        f"  {minutes} minutes: first {latency.total:.2f} s ({latency});"
        f" next {latency.following:.3f} s",
        flush=True,
    )


def outcomes(kind: str, found: dict[int, Latency]) -> Iterator[Outcome]:
    """Yield the first question, a later one, and the effect of the KV cache."""
    hour, longest = found[HOUR], found[MINUTES[-1]]
    yield Outcome(
        TARGET,
        f"{kind}: first token about a fresh hour",
        "s",
        ours=hour.total,
        why=f"{hour}; ten hours {longest.total:.3g} s: {longest}",
        curve={float(minutes): latency.total for minutes, latency in found.items()},
    )
    yield Outcome(
        TARGET,
        f"{kind}: first token of a next question about an hour",
        "s",
        ours=hour.following,
        peer=hour.total,
        peer_name="reading everything again",
        goal=GOAL,
        why=f"about ten hours {longest.following:.3g} s,"
        f" {longest.following / longest.total:.1%} of the first. Every question attends to the "
        "whole"
        " memory again. The video here is so small that it is decoded in seconds; a larger one "
        "makes"
        " the first question slower and leaves this as it is",
        curve={float(minutes): latency.following for minutes, latency in found.items()},
    )
    yield Outcome(
        TARGET,
        f"{kind}: first token of a next question about ten hours",
        "s",
        ours=longest.following,
        peer=longest.unprepared,
        peer_name="tokens kept, keys and values made anew",
        curve={float(minutes): latency.unprepared for minutes, latency in found.items()},
    )
