"""The topics of `make gpu`, the most valuable first: on a GPU at the 3B sizes, on a CPU tiny."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import torch

from lit_hour.config.load import load_config
from lit_hour.config.model import VisionConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from tests import REPOSITORY
from tests.benchmarks.speed import answering as answering_speed
from tests.benchmarks.speed import encoder as encoder_speed
from tests.benchmarks.speed import memaug as memaug_speed
from tests.benchmarks.speed import step as step_speed
from tests.benchmarks.speed.harness.matrix_rate import synchronize
from tests.benchmarks.speed.harness.outcome import Outcome
from tests.gpu.conftest import DEVICE_VARIABLE
from tests.helpers.siglip_tower import SIGLIP

REHEARSAL = "rehearsal, tiny sizes"
TINY_SHAPE = replace(memaug_speed.SMALL, query_frames=15)
NUM_TESTS_SECONDS = 110  # limit
NUM_TINY_STEPS, TINY_FRAMES = 5, 40
NUM_ENCODED_FRAMES, ENCODED_CHUNKS = 256, (16, 64, 256)
NUM_QUESTIONS = (1, 4, 16)  # about one memory at once
NUM_NEW_TOKENS = 8


@dataclass(frozen=True)
class Topic:
    """Something to measure within a time limit.

    Attributes:
        title: what it is about.
        limit_seconds: after which its process is stopped; rows that it has sent are kept.
        measure: yields rows, on a device.
    """

    title: str
    limit_seconds: float
    measure: Callable[[torch.device], Iterator[Outcome]]


def tests(device: torch.device) -> Iterator[Outcome]:
    """Run the tests marked `gpu`.

    Raises:
        RuntimeError: a test failed.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
        environment = {**os.environ, DEVICE_VARIABLE: device.type}
        started = time.perf_counter()
        finished = subprocess.run(
            [*command, "-rfs"],
            cwd=REPOSITORY,
            env=environment,
            timeout=None if device.type == "cpu" else NUM_TESTS_SECONDS,
            check=False,
        )
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        counts = {
            name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
        }
    num_bad = counts["failures"] + counts["errors"]
    num_good = counts["tests"] - counts["skipped"] - num_bad
    what = f"tests marked gpu: {num_good} passed, {num_bad} failed, {counts['skipped']} skipped"
    yield Outcome(0, what, "s", ours=time.perf_counter() - started)
    if finished.returncode:
        raise RuntimeError(f"{what}; pytest's exit status is {finished.returncode}")


def memaug(device: torch.device) -> Iterator[Outcome]:
    """Measure MemAug and the repository of an hour, forward and backward."""
    memaug_speed.check_equal()
    if device.type == "cpu":
        yield from memaug_speed.time_rows(TINY_SHAPE)
        return
    yield from memaug_speed.time_rows(memaug_speed.HOUR)
    yield from memaug_speed.memory_rows(memaug_speed.HOUR)


def step(device: torch.device) -> Iterator[Outcome]:
    """Measure a training step on an encoded hour."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if device.type == "cuda":
            yield from step_speed.hour_step(folder)
            return
        overrides = [
            *step_speed.TINY_ENCODED,
            f"training.max_steps={NUM_TINY_STEPS}",
            "training.precision=bf16-true",
            "data.num_workers=0",
            *step_speed.path_overrides(folder, "noise"),
        ]
        config = load_config(step_speed.CONFIGS / "tiny_model.yaml", overrides)
        module, steps = step_speed.encoded_steps(config, folder, TINY_FRAMES, 2)
        yield from step_speed.step_rows(REHEARSAL, config, module, steps, device)


def answering(device: torch.device) -> Iterator[Outcome]:
    """Measure the first token about one and ten hours, and the first token of a next question."""
    session, is_gpu = open_session(device), device.type == "cuda"
    lengths = {60: 60.0, 600: 600.0} if is_gpu else {60: 0.5, 600: 1.0}  # minutes
    found = {}
    for named, minutes in lengths.items():
        encode = answering_speed.noise_video(session, minutes, has_frames=named == 60)
        num_rounds = 2 if named == 60 else 1  # the first one selects kernels
        rounds = [answering_speed.measure_latency(session, encode) for _ in range(num_rounds)]
        found[named] = min(rounds, key=lambda latency: latency.total)
        answering_speed.print_latency(named, found[named])
    what = "3B shapes, bf16, frames decoded before (ten hours: encoded before)"
    yield from answering_speed.outcomes(what if is_gpu else REHEARSAL, found)


def questions(device: torch.device) -> Iterator[Outcome]:
    """Measure answers to several questions about one memory at once."""
    session, is_gpu = open_session(device), device.type == "cuda"
    memory = answering_speed.noise_video(session, 60 if is_gpu else 0.5, has_frames=False)()
    rates: dict[int, float] = {}
    for num in NUM_QUESTIONS:
        asked = [answering_speed.QUESTIONS[index % 10] for index in range(num)]
        conversations = [session.processor.build_prompt(question) for question in asked]
        seconds = []
        for _ in range(2):  # the first one selects kernels
            synchronize(device)
            started = time.perf_counter()
            session.generate_batch(memory, conversations)
            synchronize(device)
            seconds.append(time.perf_counter() - started)
        rates[num] = num / min(seconds)
        yield Outcome(
            6,
            f"{num} questions about an hour at once, {NUM_NEW_TOKENS} new tokens"
            + ("" if is_gpu else f"; {REHEARSAL}"),
            "questions/s",
            ours=rates[num],
            peer=rates[1],
            peer_name="one by one",
        )


def encoder(device: torch.device) -> Iterator[Outcome]:
    """Measure the vision encoder against the matrix rate."""
    if device.type == "cpu":
        tower = VisionEncoder(SIGLIP).eval()
        yield encoder_speed.measure_variants(tower, REHEARSAL, 8, (4, 8))
        return
    so400m = VisionEncoder(VisionConfig()).eval().to(device, torch.bfloat16)
    what = "so400m at 384 pixels, bf16"
    yield encoder_speed.measure_variants(so400m, what, NUM_ENCODED_FRAMES, ENCODED_CHUNKS)


def open_session(device: torch.device) -> VideoPredictor:
    """Return the 3B shapes with random weights on a GPU, and the tiny model on a CPU."""
    new_tokens = f"generation.max_new_tokens={NUM_NEW_TOKENS}"
    if device.type == "cuda":
        return answering_speed.random_session(device, new_tokens)
    settings = [*answering_speed.SETTINGS, new_tokens]
    config = load_config(answering_speed.CONFIGS / "tiny_model.yaml", settings)
    processor = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), config.text)
    model = answering_speed.random_model(config, len(processor.tokenizer), device)
    return VideoPredictor(config, model, processor)


TOPICS = {
    "tests": Topic("the tests marked gpu", NUM_TESTS_SECONDS + 10, tests),
    "memaug": Topic("MemAug about an hour, forward and backward", 60, memaug),
    "step": Topic("a training step on an encoded hour", 75, step),
    "answering": Topic("first token about one and ten hours", 75, answering),
    "questions": Topic("several questions per memory", 40, questions),
    "encoder": Topic("the vision encoder", 60, encoder),
}
