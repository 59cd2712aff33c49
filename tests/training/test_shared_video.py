"""Several conversations about one video share its encoding, and learn as separate samples do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from lit_hour.data import datasets
from lit_hour.data.shards import reader
from lit_hour.model.memory_repository import LazyTokens
from lit_hour.model.vision_encoder import Projector, VisionEncoder
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training import module as training_module
from lit_hour.training.module import HourLLaVAModule, forgetting_generators
from lit_hour.types import Batch
from tests.data.rank_data import data_of_rank
from tests.helpers.toy_run import ToyProject, TrainedRun
from tests.training.step_gradients import loss_and_gradients, stand_in_trainer

TOLERANCE = 1e-6  # relative to the norm of a parameter's gradient
NUM_CONVERSATIONS = 4
ONCE = {  # what a step does once for each video
    "reads of a shard": (reader.Shards, "read"),
    "decoded JPEGs": (datasets, "decode_jpeg"),
    "mapped feature files": (reader, "parse_safetensors"),
    "encoded videos": (VisionEncoder, "encode_images"),
    "pooled videos": (VisionEncoder, "pool"),
    "projections to keys and values": (LazyTokens, "linear"),
}
FROM_FRAMES = ("reads of a shard", "decoded JPEGs", "encoded videos")
FROM_FEATURES = ("reads of a shard", "mapped feature files", "pooled videos")


@pytest.fixture(scope="module")
def processor(trained: TrainedRun) -> HourLLaVAProcessor:
    return HourLLaVAProcessor(
        load_tokenizer(trained.run.tokenizer), trained.project.config("none").text
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of the calls in `ONCE`, and of the projector's layers."""
    counts: Counter[str] = Counter()

    def count(label: str, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[label] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for label, (owner, name) in ONCE.items():
        count(label, owner, name)
    build = Projector.__init__

    def build_counted(projector: Projector, *args: Any) -> None:
        build(projector, *args)
        projector.layers[0].register_forward_hook(lambda *_: counts.update(["projections"]))

    monkeypatch.setattr(Projector, "__init__", build_counted)
    return counts


def build_module(toy: ToyProject, processor: HourLLaVAProcessor, *argv: str) -> HourLLaVAModule:
    torch.manual_seed(0)
    module = HourLLaVAModule(toy.config("none", *argv), len(processor.tokenizer), num_steps=10)
    module.trainer = stand_in_trainer(processor)
    return module.train()


def read_batches(toy: ToyProject, processor: HourLLaVAProcessor, *argv: str) -> list[Batch]:
    """Return the samples of a pass as micro-batches, with one question in a conversation."""
    one = ("data.questions_per_sample=1", "data.global_batch_size=1", "training.max_steps=0")
    return list(data_of_rank(toy, processor, *one, *argv).train_dataloader())


@pytest.mark.parametrize("stored", ["frames", "features"])
def test_video_is_read_encoded_and_projected_once_for_all_conversations(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    frames: Path,
    features: Path,
    calls: Counter[str],
    stored: str,
) -> None:
    folder = frames / "shards" if stored == "frames" else features
    argv = (f"data.sources.world.shards={folder}", "training.learning_rate.vision=0")
    module = build_module(toy, processor, *argv)
    counts = {}
    for num in (1, NUM_CONVERSATIONS):
        calls.clear()
        batches = read_batches(toy, processor, *argv, f"data.conversations_per_video={num}")
        full = [batch for batch in batches if len(batch.input_ids) == num]
        read = {label: calls[label] / len(batches) for label in tuple(calls)}
        calls.clear()
        with torch.no_grad():
            module.training_step(full[0], 0)
        counts[num] = {**calls, **read}
    assert counts[NUM_CONVERSATIONS] == counts[1]
    expected = FROM_FRAMES if stored == "frames" else FROM_FEATURES
    assert {*expected, "projections", "projections to keys and values"} <= counts[1].keys()
    assert counts[1]["reads of a shard"] == counts[1]["projections"] == 1


@pytest.mark.parametrize("stored", ["frames", "features"])
def test_conversations_learn_as_separate_samples_do(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    frames: Path,
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str,
) -> None:
    """Separate samples with the same draws of forgetting have the same loss and gradients."""
    folder = frames / "shards" if stored == "frames" else features
    argv = (
        f"data.sources.world.shards={folder}",
        f"training.learning_rate.vision={0.001 if stored == 'frames' else 0}",
    )
    module = build_module(toy, processor, *argv)
    several = (f"data.conversations_per_video={NUM_CONVERSATIONS}",)
    together = next(
        batch
        for batch in read_batches(toy, processor, *argv, *several)
        if len(batch.input_ids) == NUM_CONVERSATIONS
    )
    loss, expected = loss_and_gradients(module, [together])

    question_sets = list(together.questions)
    alone = {batch.questions[0]: batch for batch in read_batches(toy, processor, *argv)}
    draws = dict(zip(question_sets, draws_of(together), strict=True))
    monkeypatch.setattr(
        training_module,
        "forgetting_generators",
        lambda batch, _: [Generator().manual_seed(draws[batch.questions[0]])],
    )
    found, gradients = loss_and_gradients(module, [alone[one] for one in question_sets])
    assert found == pytest.approx(loss, rel=TOLERANCE)
    assert gradients.keys() == expected.keys() and len(gradients) > 10
    atol = 1e-9 * float(torch.nn.utils.get_total_norm(expected.values()))
    for name, gradient in expected.items():
        difference = float((gradients[name] - gradient).norm())
        assert difference <= TOLERANCE * float(gradient.norm()) + atol, name

    draws = dict.fromkeys(question_sets, 0)  # other draws give another gradient
    _, gradients = loss_and_gradients(module, [alone[one] for one in question_sets])
    name = "model.memaug.blocks.0.cross_attention.output.weight"
    assert float((gradients[name] - expected[name]).norm()) > 1e-3 * float(expected[name].norm())


def draws_of(batch: Batch, seed: int = 0) -> list[int]:
    """Return the seed of each text's generator."""
    return [generator.initial_seed() for generator in forgetting_generators(batch, seed)]


def test_each_conversation_has_its_own_draws(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    batches = read_batches(toy, processor, "data.conversations_per_video=3")
    draws = [draw for batch in batches for draw in draws_of(batch)]
    assert len(set(draws)) == len(draws) == sum(len(batch.input_ids) for batch in batches)
    first = [draws_of(batch)[0] for batch in batches]
    alone = read_batches(toy, processor)
    assert first == [draws_of(batch)[0] for batch in alone[: len(batches)]]  # of their positions
    assert not set(draws) & set(draws_of(batches[0], seed=1))


def test_draws_do_not_depend_on_the_micro_batch(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    several = ("data.conversations_per_video=3", "data.global_batch_size=4")
    one, two, four = (
        [
            draw
            for batch in read_batches(toy, processor, *several, f"data.micro_batch_size={size}")
            for draw in draws_of(batch)
        ]
        for size in (1, 2, 4)
    )
    assert one == two == four
