"""Target 9: random batches, batches of a budget of tokens, and packed texts, on a mixture.

The mixture has texts, images, short videos, and videos of 3 minutes to an hour with five questions
each, as long as VideoMarathon's. The useful share is the share of the tokens that the language
model computes which are not padding: counted over a pass. Time is that of a small language model,
forward and backward, on the same samples in batches of each kind. Its texts have an eighth of the
tokens, so that attention is a third of the work; it is a tenth in the 3B shapes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lit_hour.config.model import LLMConfig
from lit_hour.data.sample_lengths import SampleLengths
from lit_hour.data.sample_order import LengthBalancedOrder, MixedOrder, SourceOrder
from lit_hour.data.token_batches import TokenBatchOrder
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.multimodal_inputs import pad_inputs
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.data.published_lengths import PublishedLengths

TARGET = 9
BUDGET = 32768  # tokens of a batch; an hour with its questions has 9,000
SAMPLES_PER_BATCH = 8  # of the batches with a fixed number
BATCHES_PER_STEP = 16
NUM_TIMED, NUM_SIMULATED = 128, 40_000
NUM_ROUNDS = 3
TIMED_SCALE = 8  # tokens of the mixture for one of the timed texts
SHARES = {"texts": 0.1, "images": 0.3, "short videos": 0.2, "videos": 0.4}
LLM = LLMConfig(
    hidden_size=256,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    intermediate_size=768,
)
VOCABULARY = 512
LEARNED_SHARE = 0.02


@dataclass(frozen=True)
class Kind:
    """A way of batching: its name in the table, and whether texts are packed."""

    name: str
    packs: bool = False


FIXED = Kind(f"{SAMPLES_PER_BATCH} samples at random")
BALANCED = Kind(f"{SAMPLES_PER_BATCH} samples of a length-balanced step")
RANDOM = Kind("a budget, at random")
GROUPED = Kind("a budget, similar lengths")
FIXED_PACKED = Kind(f"{SAMPLES_PER_BATCH} samples at random, packed", packs=True)
PACKED = Kind("a budget, packed", packs=True)
KINDS = (FIXED, BALANCED, RANDOM, GROUPED, FIXED_PACKED, PACKED)


def measure() -> Iterator[Outcome]:
    """Count the useful share of each kind of batches, and time the language model on them."""
    mixture = build_mixture(NUM_SIMULATED)
    shares = {
        kind.name: useful_share(mixture, iter_batches(mixture, kind, BUDGET), kind)
        for kind in KINDS
    }
    for name, share in shares.items():
        print(f"  useful share of {name}: {share:.3f}", flush=True)
    for kind in KINDS:
        yield Outcome(
            TARGET,
            f"useful share of the language model's tokens: {kind.name}",
            "share",
            ours=shares[kind.name],
            peer=shares[FIXED.name],
            peer_name=FIXED.name,
            goal=Goal("at least", 0.95, "nothing") if kind in (GROUPED, PACKED) else None,
        )
    yield from time_kinds(build_mixture(NUM_TIMED, seed=1))


# The mixture


@dataclass(frozen=True)
class Mixture:
    """A mixed order with the lengths of its samples, one text each, by their source."""

    order: MixedOrder
    lengths: dict[str, SampleLengths]

    def tokens_at(self, positions: Sequence[int]) -> np.ndarray:
        """Return the tokens of the samples at some positions: `(samples,)`."""
        found = [self.order[position] for position in positions]
        return np.array([int(self.lengths[name].total[sample]) for name, _, sample in found])


def build_mixture(num_samples: int, seed: int = 0) -> Mixture:
    """Return samples with the lengths that the published model reads them in."""
    random = np.random.default_rng(seed)
    counts = {name: round(share * num_samples) for name, share in SHARES.items()}
    hours = PublishedLengths(fraction=0.2, seed=seed).seconds  # (videos,)
    seconds = {
        "short videos": random.uniform(15, 180, counts["short videos"]),
        "videos": random.choice(hours[hours >= 180], counts["videos"]),
    }
    tiles = random.integers(1, 10, counts["images"])  # (images,)
    tokens = {
        "texts": random.lognormal(6, 1, counts["texts"]).clip(30, 8000),
        "images": 183 + tiles * 190 + random.uniform(50, 300, counts["images"]),
        **{
            name: np.minimum(512, np.maximum(128, length) // 4) * 17
            + 5 * random.uniform(40, 90, len(length))
            for name, length in seconds.items()
        },
    }
    frames = {**seconds, "images": tiles * 11.0, "texts": np.full(counts["texts"], 11.0)}
    lengths = {
        name: SampleLengths(
            np.ones(len(values), np.int64),
            values.astype(np.int64),
            values.astype(np.int64),
            (frames[name] * 65 + 300).astype(np.int64),
        )
        for name, values in tokens.items()
    }
    sources = {name: SourceOrder((counts[name],), 4, seed, name) for name in tokens}
    return Mixture(MixedOrder(sources, dict.fromkeys(tokens, 1.0), seed), lengths)


def iter_batches(mixture: Mixture, kind: Kind, budget: int) -> Iterator[list[int]]:
    """Yield the positions of each batch of a pass."""
    num_samples = mixture.order.num_samples
    if kind in (FIXED, FIXED_PACKED, BALANCED):
        order = LengthBalancedOrder(
            mixture.order,
            {name: [lengths.cost] for name, lengths in mixture.lengths.items()},
            samples_per_step=SAMPLES_PER_BATCH * min(BATCHES_PER_STEP, num_samples // 32),
            max_window_steps=100 if kind == BALANCED else 1,
        )
        for first in range(0, num_samples, SAMPLES_PER_BATCH):
            end = min(first + SAMPLES_PER_BATCH, num_samples)
            yield [order[position] for position in range(first, end)]
        return
    budgeted = TokenBatchOrder(
        mixture.order,
        mixture.lengths,
        tokens_per_batch=budget,
        batches_per_step=min(BATCHES_PER_STEP, num_samples // 32),
        max_window_steps=1 if kind == RANDOM else 100,
        counts_padding=not kind.packs,
    )
    steps = itertools.islice(budgeted.iter_steps(0), budgeted.steps_per_pass)
    yield from filter(None, itertools.chain.from_iterable(steps))


def useful_share(mixture: Mixture, batches: Iterator[list[int]], kind: Kind) -> float:
    """Return the share of the computed tokens that are not padding."""
    useful = computed = 0
    for batch in batches:
        tokens = mixture.tokens_at(batch)  # (samples,)
        useful += int(tokens.sum())
        computed += int(tokens.sum() if kind.packs else len(tokens) * tokens.max())
    return useful / computed


# Time


def time_kinds(mixture: Mixture) -> Iterator[Outcome]:
    """Time forward and backward of a small language model on the same samples."""
    torch.set_num_threads(1)  # two wait for each other where other work runs
    batches = {
        kind: [
            mixture.tokens_at(batch) // TIMED_SCALE for batch in iter_batches(mixture, kind, BUDGET)
        ]
        for kind in KINDS
    }
    (num_tokens,) = {  # the samples are the same
        sum(int(tokens.sum()) for tokens in of_kind) for of_kind in batches.values()
    }
    seconds: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(NUM_ROUNDS):
        for kind in KINDS:
            seconds[kind].append(time_pass(batches[kind], kind))
            print(f"  {kind.name}: {seconds[kind][-1]:.1f} s", flush=True)
    best = {kind: min(rounds) / num_tokens for kind, rounds in seconds.items()}
    for kind in KINDS:
        yield Outcome(
            TARGET,
            f"language model, forward and backward: {kind.name}",
            "core us per useful token",
            ours=1e6 * best[kind],
            peer=1e6 * best[FIXED],
            peer_name=FIXED.name,
            why=f"{LLM.num_layers} layers of width {LLM.hidden_size}, {NUM_TIMED} samples,"
            f" an eighth of the tokens and of the budget, one thread, float32",
        )


def time_pass(batches: Sequence[np.ndarray], kind: Kind) -> float:
    """Return the core seconds of forward and backward on all batches."""
    torch.manual_seed(0)
    llm = LanguageModel(LLM, VOCABULARY)
    if kind.packs:
        llm.pack_texts()
    llm.loss(random_texts([64, 32])).backward()  # buffers are allocated
    total = 0.0
    for tokens in batches:
        inputs = random_texts(tokens.tolist())
        started = time.process_time()
        llm.loss(inputs).backward()
        total += time.process_time() - started
    return total


def random_texts(lengths: Sequence[int]) -> LLMInputs:
    """Return random texts with labels at their ends."""
    sequences = []
    for length in lengths:
        labels = torch.full((length,), -100)  # (tokens,)
        labels[-max(1, round(LEARNED_SHARE * length)) :] = 7
        sequences.append((torch.randn(length, LLM.hidden_size), labels))
    return pad_inputs(sequences, 10**6, "right")
