"""Target 8: questions per second of training, by the number of conversations in a sample.

Each step learns the same number of questions: with N conversations in a sample it has 8 / N samples
(with 24 conversations one, so three times as many questions). Steps are taken as in `train.py`, by
`take_steps`; the numbers of conversations alternate, and the best round of each counts. Some rounds
of the tiny model have one thread, beside a worker process that reads on another core, and some a
thread per core: the more conversations share a video, the less there is to read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lit_hour.data.datasets import TrainingDataset, collate_results
from lit_hour.data.sample_order import MixedOrder, SourceOrder
from lit_hour.data.sources import open_sources
from lit_hour.data.training_samples import samples_per_shard
from lit_hour.media.selective_decoding import num_available_cpus
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.training.module import HourLLaVAModule
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.questions.operations import HOUR_FRAMES, NUM_QUESTIONS, operations
from tests.benchmarks.speed.questions.setups import Setup
from tests.benchmarks.speed.step.timed_steps import take_steps

TARGET = 8
NUM_CONVERSATIONS = (1, 2, 4, 8, 24)
CONVERSATIONS_PER_STEP = 8
COMPARED = 8  # conversations; their rate is judged against the rate of one
NUM_READS, NUM_READ_ROUNDS = 16, 3
SETUPS = (
    Setup("tiny model, a minute of frames", "tiny", "frames", 60, 5, 12, 4, 4, goal=4.0),
    Setup("tiny model, a minute of features", "tiny", "features", 60, 5, 12, 4, 4, goal=2.5),
    Setup("the same frames, a question in a conversation", "tiny", "frames", 60, 1, 16, 4, 2),
    Setup("tiny model, ten minutes of frames", "tiny", "frames", 600, 5, 3, 1, 2),
    Setup("tiny model, ten minutes of features", "tiny", "features", 600, 5, 3, 1, 2),
    Setup("tiny model, an hour of frames", "tiny", "frames", 3600, 5, 3, 1, 1, goal=4.0),
    Setup("tiny model, an hour of features", "tiny", "features", 3600, 5, 3, 1, 1, goal=2.5),
    Setup("3B widths, a layer of each part, 8 frames", "3b", "frames", 8, 1, 2, 1, 1),
    Setup("3B widths, a layer of each part, 8 features", "3b", "features", 8, 1, 2, 1, 1),
)


@dataclass(frozen=True)
class Rate:
    """Questions per second of training, and what a step takes.

    Attributes:
        questions_per_second: by the clock.
        parts: seconds of a step by part.
        core_seconds: of a step, without the worker process that reads.
        num_threads: of the training process.
    """

    questions_per_second: float
    parts: dict[str, float]
    core_seconds: float
    num_threads: int

    def __str__(self) -> str:
        seconds = sum(self.parts.values())
        parts = ", ".join(f"{part} {1e3 * spent:.0f} ms" for part, spent in self.parts.items())
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        waiting = f"{self.parts['data'] / seconds:.1%} of a step waits for data"
        return f"with {threads} {waiting} ({parts})"


def measure(setups: Sequence[Setup] = SETUPS) -> Iterator[Outcome]:
    """Measure training and the data path of each setup."""
    for setup in setups:
        with TemporaryDirectory() as folder:
            print(f"{setup.title}: writing shards", flush=True)
            setup.write_shards(Path(folder))
            data = data_row(setup, Path(folder))
            assert data.peer is not None
            yield from training_rows(setup, Path(folder), setup.num_questions / data.peer)
            yield data
    yield from operation_rows()


# Training


def training_rows(setup: Setup, folder: Path, read_seconds: float) -> Iterator[Outcome]:
    """Measure the steps of each number of conversations, in alternation.

    Args:
        setup: model and videos.
        folder: of the shards.
        read_seconds: core seconds to read a video with one conversation.
    """
    processor, module = setup.build(setup.config(folder))
    rates: dict[int, list[Rate]] = {num: [] for num in NUM_CONVERSATIONS}
    thread_counts = (1, num_available_cpus()) if setup.model == "tiny" else (num_available_cpus(),)
    for number in range(setup.num_rounds):
        num_threads = thread_counts[number % len(thread_counts)]
        for num in NUM_CONVERSATIONS:
            rate = training_rate(setup, folder, num, processor, module, num_threads)
            print(f"  {num}: {rate.questions_per_second:.1f} questions/s, {rate}", flush=True)
            rates[num].append(rate)
    best = {
        num: max(found, key=lambda rate: rate.questions_per_second) for num, found in rates.items()
    }
    text, video = text_and_video_seconds(
        {num: min(rate.core_seconds for rate in rates[num]) for num in (1, COMPARED)}
    )
    limit = (text + video + read_seconds) / text
    costs = (
        f"a video takes {read_seconds:.3f} core seconds to read and {video:.3f} to encode and"
        f" project, and a conversation takes {text:.3f}, so that any number of conversations gives"
        f" less than {limit:.1f} times the rate of one"
    )
    print(f"  {costs}", flush=True)
    alone = best[1].questions_per_second
    for num, rate in best.items():
        is_judged = num == COMPARED and setup.goal is not None
        yield Outcome(
            TARGET,
            f"{setup.title}, {count(num)} in a sample",
            "questions/s",
            ours=rate.questions_per_second,
            peer=None if num == 1 else alone,
            peer_name="" if num == 1 else "one conversation",
            goal=Goal("at least", setup.goal) if is_judged and setup.goal else None,
            why=f"{costs}; {rate}",
        )


def training_rate(
    setup: Setup,
    folder: Path,
    num_conversations: int,
    processor: HourLLaVAProcessor,
    module: HourLLaVAModule,
    num_threads: int,
) -> Rate:
    """Take the steps of a round; the module continues from the round before."""
    config = setup.config(folder, *batch_overrides(num_conversations))
    torch.set_num_threads(num_threads)
    steps = take_steps(config, processor, module, keep_batches=False)
    parts = steps.mean_seconds(setup.num_warmup)
    num_questions = sum(len(questions) for questions in steps.batches[-1].questions)
    core_seconds = steps.core_seconds[setup.num_warmup :]
    return Rate(
        num_questions / sum(parts.values()),
        parts,
        sum(core_seconds) / len(core_seconds),
        num_threads,
    )


def batch_overrides(num_conversations: int) -> tuple[str, ...]:
    """Return settings with the samples of a step in one micro-batch."""
    num_samples = max(1, CONVERSATIONS_PER_STEP // num_conversations)
    return (
        f"data.conversations_per_video={num_conversations}",
        f"data.global_batch_size={num_samples}",
        f"data.micro_batch_size={num_samples}",
    )


def text_and_video_seconds(step_seconds: dict[int, float]) -> tuple[float, float]:
    """Split the time of a step into the parts of a conversation and of a video.

    Args:
        step_seconds: of steps with 1 and with 8 conversations in a sample, which have equally many
            conversations, and eight videos or one.
    """
    one, several = step_seconds[1], step_seconds[COMPARED]
    num_videos = CONVERSATIONS_PER_STEP // COMPARED
    video = max(0.0, (one - several) / (CONVERSATIONS_PER_STEP - num_videos))
    return (one - CONVERSATIONS_PER_STEP * video) / CONVERSATIONS_PER_STEP, video


def count(num_conversations: int) -> str:
    """Return the number of conversations in words."""
    return "one conversation" if num_conversations == 1 else f"{num_conversations} conversations"


# Data


def data_row(setup: Setup, folder: Path) -> Outcome:
    """Read samples in this process, with 8 conversations and with one, in alternation."""
    best: dict[int, float] = {}
    for _ in range(NUM_READ_ROUNDS):
        for num in (1, COMPARED):
            best[num] = max(best.get(num, 0.0), read_rate(setup, folder, num))
    return Outcome(
        TARGET,
        f"{setup.title}, data alone, {count(COMPARED)} in a sample",
        "questions/s",
        ours=best[COMPARED],
        peer=best[1],
        peer_name="one conversation",
    )


def read_rate(setup: Setup, folder: Path, num_conversations: int) -> float:
    """Return the questions per second of reading, decoding and tokenizing."""
    config = setup.config(folder, *batch_overrides(num_conversations))
    processor = setup.load_processor(config)
    sources = open_sources(config)
    orders = {
        name: SourceOrder(samples_per_shard(shards, config), 1, config.run.seed, name)
        for name, shards in sources.items()
    }
    mixed_order = MixedOrder(orders, dict.fromkeys(orders, 1.0), config.run.seed)
    dataset = TrainingDataset(sources, mixed_order, processor, config)
    num_questions, started = 0, time.perf_counter()
    for position in range(NUM_READS):
        batch = collate_results(processor, [dataset[position]])
        num_questions += sum(map(len, batch.questions))
    return num_questions / (time.perf_counter() - started)


# Operations of the 3B model


def operation_rows() -> Iterator[Outcome]:
    """Count the operations of a step of the 3B model about an hour of video."""
    costs = operations(HOUR_FRAMES)
    text = costs["conversation"]
    for stored, video in (
        ("frames", costs["encoding"] + costs["repository"]),
        ("features", costs["repository"]),
    ):
        rates = {num: NUM_QUESTIONS * 1e15 / (text + video / num) for num in NUM_CONVERSATIONS}
        for num in (COMPARED, NUM_CONVERSATIONS[-1]):
            yield Outcome(
                TARGET,
                f"3B model, an hour of {stored}, by operations, {count(num)} in a sample",
                "questions/PFLOP",
                ours=rates[num],
                peer=rates[1],
                peer_name="one conversation",
            )
