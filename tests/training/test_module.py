from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.module import HourLLaVAModule, forgetting_generators
from lit_hour.types import IGNORE_INDEX, Batch, Frames, Question, Sample, Skipped
from tests.helpers.toy_run import ToyProject, TrainedRun
from tests.training.step_gradients import loss_and_gradients, stand_in_trainer

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
def module(toy: ToyProject, processor: HourLLaVAProcessor) -> HourLLaVAModule:
    torch.manual_seed(0)
    module = HourLLaVAModule(toy.config("none"), len(processor.tokenizer), num_steps=10)
    module.trainer = stand_in_trainer(processor)
    return module


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


def test_step_averages_over_its_tokens_in_any_micro_batches(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    questions = [RED, LONG, BLUE, RED]
    loss, expected = loss_and_gradients(module, [batch_of(processor, range(4), questions)])
    unreadable = processor.collate([], skipped=[Skipped("key", "damaged")])
    for size in (2, 1):
        micro_batches = [
            batch_of(processor, range(first, first + size), questions[first : first + size])
            for first in range(0, 4, size)
        ]
        num_tokens = {int((batch.labels != IGNORE_INDEX).sum()) for batch in micro_batches}
        assert len(num_tokens) > 1
        found, gradients = loss_and_gradients(module, [*micro_batches, unreadable])
        assert found == pytest.approx(loss, rel=1e-6)
        assert gradients.keys() == expected.keys() and len(gradients) > 20
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_loss_averages_over_the_tokens_of_a_batch(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    losses, num_tokens = [], []
    for position, question in enumerate((RED, LONG)):
        batch = batch_of(processor, [position], [question])
        losses.append(loss_and_gradients(module, [batch])[0])
        num_tokens.append(int((batch.labels != IGNORE_INDEX).sum()))
    together, _ = loss_and_gradients(module, [batch_of(processor, [0, 1], [RED, LONG])])
    by_token = np.average(losses, weights=num_tokens)
    assert together == pytest.approx(by_token, rel=1e-5)
    assert abs(together - sum(losses) / 2) > 1e-3


def test_forgetting_depends_on_position_and_seed_only(
    toy: ToyProject, module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    def numbers(module: HourLLaVAModule, positions: Sequence[int]) -> list[int]:
        batch = batch_of(processor, positions, [RED] * len(positions))
        generators = forgetting_generators(batch, module.config.run.seed)
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


@torch.no_grad()
def test_validation_loss_averages_over_the_tokens_of_all_batches(
    module: HourLLaVAModule, processor: HourLLaVAProcessor
) -> None:
    module.validation_step(batch_of(processor, [0, 1], [RED, LONG]), 0)
    together = float(module.val_loss.compute())
    module.val_loss.reset()
    for position, question in enumerate((RED, LONG)):
        module.validation_step(batch_of(processor, [position], [question]), position)
    assert float(module.val_loss.compute()) == pytest.approx(together, rel=1e-5)


def test_describe_lists_the_size_of_each_part(module: HourLLaVAModule) -> None:
    sizes = {
        part: float(size)
        for part, size in (text.split(" ")[:2] for text in module.describe().split(", "))
    }
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    assert list(sizes) == ["vision", "projector", "memaug", "llm"]
    assert sum(sizes.values()) == pytest.approx(num_parameters / 1e6, abs=0.02)
