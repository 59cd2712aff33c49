"""Roofline of this machine: measured rates, operations and bytes of each part of an answer.

Entry points: `Rates.measure` and `answer_work`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lit_hour.config.schema import Config
from tests.benchmarks.speed.harness.matrix_rate import matrix_rate

NUM_ROUNDS = 3
COPIED_NUMBERS = 2**26  # float32, 268 MB: far more than any cache
QUERIES, KEYS, HEADS, HEAD_DIM = 2048, 16_384, 2, 128


@dataclass(frozen=True)
class Rates:
    """Measured rates of this machine with the threads that the answers have.

    Attributes:
        matrix: bf16 FLOP/s of a large matrix product.
        attention: bf16 FLOP/s of `scaled_dot_product_attention`, forward.
        bandwidth: bytes per second of reading and writing memory.
    """

    matrix: float
    attention: float
    bandwidth: float

    @classmethod
    def measure(cls) -> Rates:
        """Measure all rates; takes a few seconds."""
        heads = [
            torch.randn(1, HEADS, rows, HEAD_DIM).bfloat16() for rows in (QUERIES, KEYS, KEYS)
        ]  # (1, heads, rows, head_dim)
        attention_seconds = best_seconds(lambda: F.scaled_dot_product_attention(*heads))
        source = torch.ones(COPIED_NUMBERS)  # (COPIED_NUMBERS,)
        target = torch.empty_like(source)  # (COPIED_NUMBERS,)
        return cls(
            matrix=matrix_rate(torch.device("cpu"), torch.bfloat16),
            attention=4 * HEADS * QUERIES * KEYS * HEAD_DIM / attention_seconds,
            bandwidth=2 * source.nbytes / best_seconds(lambda: target.copy_(source)),
        )


def best_seconds(run: Callable[[], object]) -> float:
    """Return the shortest time of several calls."""
    seconds = []
    for _ in range(1 + NUM_ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@dataclass(frozen=True)
class Work:
    """Work of a part: operations of matrix products and of attention, and bytes that it reads."""

    products: float
    attention: float
    num_bytes: float

    def seconds(self, rates: Rates) -> float:
        """Return the least time at the measured rates: of its operations, or of its bytes."""
        computing = self.products / rates.matrix + self.attention / rates.attention
        return max(computing, self.num_bytes / rates.bandwidth)


def answer_work(config: Config, num_frames: int, num_prompt: int) -> dict[str, Work]:
    """Return the work of each part of an answer about stored features, forward only.

    Args:
        config: settings of the run.
        num_frames: of the video; each has a grid of tokens and a newline token.
        num_prompt: tokens of the language model, visual tokens included.
    """
    language, num_blocks = config.model.llm, config.model.memaug.num_layers
    dim, per_frame = language.hidden_size, config.model.vision.grid**2
    keys_values = 2 * dim * language.num_key_value_heads * dim // language.num_heads  # weights
    num_memory = num_frames * (per_frame + 1)
    vision_dim = 1152  # of so400m
    projecting = forward(num_frames * per_frame, vision_dim * dim + dim**2)
    projecting += forward(num_blocks * num_memory, keys_values)
    memory_bytes = 2 * num_memory * (dim + num_blocks * keys_values // dim)
    queries = forward(num_blocks * num_prompt, 12 * dim**2 + keys_values)
    augmenting = 4.0 * num_blocks * num_prompt * (num_prompt + num_memory) * dim
    decoder_layer = 2 * dim**2 + keys_values + 3 * dim * language.intermediate_size
    decoder = language.num_layers * decoder_layer
    words = dim * language.vocab_size
    cache_bytes = 2 * num_prompt * language.num_layers * keys_values // dim
    causal = 2.0 * language.num_layers * num_prompt**2 * dim  # half of the pairs
    one = 4.0 * language.num_layers * num_prompt * dim
    token_bytes = 2 * (decoder + words) + cache_bytes
    return {
        "features to memory": Work(projecting, 0.0, memory_bytes),
        "MemAug": Work(queries, augmenting, memory_bytes),
        "prefill and first token": Work(forward(num_prompt, decoder), causal, 2.0 * decoder),
        "a further token": Work(forward(1, decoder + words), one, token_bytes),
    }


def forward(num_tokens: int, num_weights: int) -> float:
    """Return the operations of a linear layer."""
    return 2.0 * num_tokens * num_weights
