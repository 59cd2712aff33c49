from collections.abc import Iterator, Sequence
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch, Frames, Question, Sample, Skipped
from tests.helpers.generators import forgetting_generators
from tests.helpers.toy_run import ToyProject, TrainedRun

# The module logs without a Trainer here.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
RED = Question("1", "", "open_ended", "Which colour?", "red")
BLUE = Question("2", "", "open_ended", "Which colour?", "red")
LONG = Question("3", "", "open_ended", "And then?", "It goes away, and comes back from the left.")


@pytest.fixture(scope="module")
def processor(trained: TrainedRun) -> HourLLaVAProcessor:
    return HourLLaVAProcessor(
        load_tokenizer(trained.run.tokenizer), trained.project.config("none").text
    )


@pytest.fixture
def module(toy: ToyProject, processor: HourLLaVAProcessor) -> Iterator[HourLLaVAModule]:
    torch.manual_seed(0)
    module = HourLLaVAModule(toy.config("none"), len(processor.tokenizer), num_steps=10)
    trainer = Mock(datamodule=Mock(processor=processor))
    module.trainer = trainer
    yield module


def batch_of(
    processor: HourLLaVAProcessor, positions: Sequence[int], questions: Sequence[Question]
) -> Batch:
    """Return a batch with one video of noise for each position."""
    examples = []
    for position, question in zip(positions, questions, strict=True):
        generator = torch.Generator().manual_seed(position)
        images = torch.randint(
            0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator
        )  # (frames, 3, height, width)
        video = Frames(images, torch.arange(4.0))
        examples.append(
            processor.build_example(
                Sample(
                    f"{position}",
                    "noise",
                    4.0,
                    video,
                    (build_conversation([question], processor.config),),
                )
            )
        )
    return processor.collate(examples, positions=positions)


def loss_and_gradients(
    module: HourLLaVAModule, batches: Sequence[Batch]
) -> tuple[float, dict[str, Tensor]]:
    """Return the mean loss of the micro-batches and its gradients, accumulated as by Lightning."""
    module.zero_grad()
    losses = [module.training_step(batch, 0)["loss"] for batch in batches]
    torch.stack(losses).mean().backward()
    gradients = {
        name: weight.grad.clone()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }
    return float(torch.stack(losses).mean().detach()), gradients


def test_accumulated_gradients_equal_one_batch_for_answers_of_equal_length(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    whole, gradients = loss_and_gradients(
        module, [batch_of(processor, range(4), [RED, BLUE, RED, BLUE])]
    )
    parts = [
        batch_of(processor, [position], [question])
        for position, question in enumerate([RED, BLUE, RED, BLUE])
    ]
    loss, accumulated = loss_and_gradients(module, parts)
    assert loss == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == accumulated.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-3, atol=1e-6)


def test_loss_averages_over_the_tokens_of_a_batch(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    short, long = batch_of(processor, [0], [RED]), batch_of(processor, [1], [LONG])
    num_short, num_long = (int((batch.labels != -100).sum()) for batch in (short, long))
    assert num_long > num_short
    both = batch_of(processor, [0, 1], [RED, LONG])
    *losses, together = (
        float(module.training_step(batch, 0)["loss"].detach()) for batch in (short, long, both)
    )
    by_token = (losses[0] * num_short + losses[1] * num_long) / (num_short + num_long)
    assert together == pytest.approx(by_token, rel=1e-5)
    assert abs(together - sum(losses) / 2) > 1e-3


def test_forgetting_depends_on_position_and_seed_only(
    toy: ToyProject, module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    def numbers(module: HourLLaVAModule, positions: Sequence[int]) -> list[int]:
        batch = batch_of(processor, positions, [RED] * len(positions))
        generators = forgetting_generators(module, batch)
        return [int(torch.randint(2**40, (), generator=generator)) for generator in generators]

    both = numbers(module, [3, 8])
    assert both == numbers(module, [3]) + numbers(module, [8]) and both[0] != both[1]
    other = HourLLaVAModule(
        toy.config("none", "run.seed=1"), len(processor.tokenizer), num_steps=10
    )
    assert not set(numbers(other, [3, 8])) & set(both)
    assert len(numbers(module, [])) == 1  # a dummy batch has one generator


def test_batch_without_readable_samples_has_zero_loss_and_gradients(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    loss, gradients = loss_and_gradients(
        module, [processor.collate([], skipped=[Skipped("key", "damaged")])]
    )
    assert loss == 0
    assert gradients and all(not gradient.any() for gradient in gradients.values())
    with torch.no_grad():
        assert module.validation_step(processor.collate([]), 0) == []


def test_validation_step_answers_and_scores_every_question(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    choice = Question(
        "4", "scene/scene_recognition", "multiple_choice", "Where?", "sea", ("sea", "wood")
    )
    video = Frames(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), torch.arange(4.0))
    conversations = tuple(
        build_conversation([question], processor.config) for question in (RED, choice, LONG)
    )
    batch = processor.collate(
        [processor.build_example(Sample("dark", "made", 4.0, video, conversations))]
    )
    with torch.no_grad():
        predictions = module.validation_step(batch, 0)
    assert [prediction.question for prediction in predictions] == [RED, choice, LONG]
    assert all(prediction.visual_index == 0 for prediction in predictions)
    scores = module.accuracy.compute()
    assert {
        "acc/open_ended",
        "acc/multiple_choice",
        "acc/scene/scene_recognition",
    } < set(scores)
    assert scores["chance/multiple_choice"] == 0.5


def test_describe_lists_the_size_of_each_part(module: HourLLaVAModule) -> None:
    sizes = {
        part: float(size)
        for part, size in (text.split(" ")[:2] for text in module.describe().split(", "))
    }
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    assert list(sizes) == ["vision", "projector", "memaug", "llm"]
    assert sum(sizes.values()) == pytest.approx(num_parameters / 1e6, abs=0.02)
