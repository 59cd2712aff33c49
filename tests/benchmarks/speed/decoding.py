"""Continuous batching: tokens per second of several answers together, against one at a time.

The prompts are about memories of their own and are read before the time is taken. Answers alone and
together alternate in rounds; each figure is of the best round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from lit_hour.config.load import load_config
from lit_hour.inference.batching import BatchedDecoder, Generation
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Frames
from tests.benchmarks.speed.answering import CONFIGS
from tests.benchmarks.speed.harness.outcome import Goal, Outcome

TARGET = 10
GOAL = Goal("at least", 2.0)
THREADS, ROUNDS, TOKENS = 2, 5, 48
MINUTES = 5
NUMBERS = (4, 16)
WIDER = (  # a language model whose weights do not fit into the caches of a CPU: 113 M parameters
    *("model.llm.hidden_size=896", "model.llm.num_layers=8", "model.llm.num_heads=14"),
    *("model.llm.num_key_value_heads=2", "model.llm.intermediate_size=4864"),
)


def measure() -> Iterator[Outcome]:
    """Measure the tiny model, and a wider language model, on two cores."""
    torch.set_num_threads(THREADS)
    for kind, overrides in (("tiny model", ()), ("113 M parameters", WIDER)):
        predictor = random_predictor(overrides)
        for number in NUMBERS:
            alone, together = measure_pair(predictor, number)
            yield Outcome(
                TARGET,
                f"{kind}, float32, {THREADS} threads: {number} answers together",
                "tokens/s",
                ours=together,
                peer=alone,
                peer_name="one at a time",
                goal=GOAL,
            )


def random_predictor(overrides: Sequence[str]) -> VideoPredictor:
    """Return a model of random weights, whose answers do not end by themselves."""
    torch.manual_seed(0)
    settings = [f"generation.max_new_tokens={TOKENS}", *overrides]
    config = load_config(CONFIGS / "tiny_model.yaml", settings)
    processor = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), config.text)
    model = HourLLaVA.from_config(config, len(processor.tokenizer))
    return VideoPredictor(config, model, processor)


def measure_pair(predictor: VideoPredictor, number: int) -> tuple[float, float]:
    """Return the tokens per second of answers alone and together."""
    size, num_frames = predictor.config.video.image_size, 60 * MINUTES
    memories = []
    for _ in range(number):
        images = torch.randint(0, 256, (num_frames, 3, size, size), dtype=torch.uint8)
        frames = Frames(images, torch.arange(num_frames).float())
        memories.append(predictor.encode_visual(frames, float(num_frames), "noise"))
    conversation = predictor.processor.build_prompt("What happens?")
    alone = together = 0.0
    for _ in range(ROUNDS):
        decoder = BatchedDecoder(predictor)
        generations = [decoder.prepare(memory, conversation) for memory in memories]
        together = max(together, tokens_per_second(decoder, generations))
        generations = [decoder.prepare(memory, conversation) for memory in memories[:4]]
        counts = [count_tokens(decoder, [generation]) for generation in generations]
        alone = max(alone, sum(num for num, _ in counts) / sum(seconds for _, seconds in counts))
    return alone, together


def tokens_per_second(decoder: BatchedDecoder, generations: Sequence[Generation]) -> float:
    """Return the tokens per second of answers together, without their prompts."""
    num_tokens, seconds = count_tokens(decoder, generations)
    return num_tokens / seconds


def count_tokens(decoder: BatchedDecoder, generations: Sequence[Generation]) -> tuple[int, float]:
    """Read the prompts, generate the answers, and return their tokens and the seconds of these."""
    for generation in generations:
        decoder.add(generation)
    while decoder.prompts:
        decoder.step()
    started, num_tokens = time.perf_counter(), 0
    while decoder.answers:
        num_tokens += len(decoder.answers)
        decoder.step()
    return num_tokens, time.perf_counter() - started
