from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.errors import QuestionError
from lit_hour.inference.predictor import LogLikelihood, VideoMemory, VideoPredictor
from lit_hour.media.frame_sampling import load_video
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import end_of_turn_id, load_tokenizer
from lit_hour.types import Question, Sample
from tests.helpers.toy_run import TrainedRun

QUESTION = Question("1", "scene", "open_ended", "What is there?", "a red square")


@pytest.fixture(scope="module")
def video(trained: TrainedRun) -> Path:
    return trained.project.yaml.parent / "world/validation/videos/synthetic_00000.mp4"


@pytest.fixture
def predictor(trained: TrainedRun) -> VideoPredictor:
    """A model that babbles; its training would also learn the marks of turns, which are no part of an answer."""
    words = (
        "model.llm.initializer_range=0.5",
        "model.llm.tie_word_embeddings=false",
        "text.loss_on_template=true",
    )
    config = trained.project.config("none", *words)
    processor = Processor(load_tokenizer(trained.run.tokenizer), config.text)
    torch.manual_seed(0)
    return VideoPredictor(config, HourLLaVA(config, len(processor.tokenizer)), processor)


@pytest.fixture
def memory(predictor: VideoPredictor, video: Path) -> VideoMemory:
    return predictor.encode_video(video)


def weigh(
    predictor: VideoPredictor, memory: VideoMemory, question: str, *answers: str
) -> list[LogLikelihood]:
    return predictor.loglikelihood(memory, predictor.processor.ask(question), answers)


def test_it_is_the_loss_of_training_on_the_answer_alone(
    predictor: VideoPredictor, memory: VideoMemory, video: Path
) -> None:
    frames, duration_seconds = load_video(video, predictor.config.video)
    processor = Processor(
        predictor.processor.tokenizer, replace(predictor.config.text, loss_on_template=False)
    )
    sample = Sample("video", "mine", duration_seconds, frames, (processor.converse([QUESTION]),))
    with torch.no_grad():
        batch = processor.batch([processor.example(sample)])
        loss = predictor.model.llm.loss(
            predictor.model.build_inputs(batch, predictor.model.build_repositories(batch.visuals))
        ).item()
    found, spaced, other = weigh(
        predictor, memory, QUESTION.question, QUESTION.answer, " a red square\n", "a blue star"
    )
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.num_tokens == int((batch.labels >= 0).sum())
    assert spaced == found and other.loss != found.loss


def test_an_answer_is_greedy_if_the_predictor_gives_it(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    head = predictor.model.llm.network.lm_head.weight
    seen = []
    for sign in (
        1,
        -1,
    ):  # one of them makes the end of the turn the likeliest token, the other the least likely
        with torch.no_grad():
            head.zero_()[end_of_turn_id(predictor.processor.tokenizer)] = sign
        *pieces, _ = predictor.generate(memory, QUESTION.question)
        seen.append(
            (len(pieces) == 1, weigh(predictor, memory, QUESTION.question, "")[0].is_greedy)
        )
    assert sorted(seen) == [(False, False), (True, True)]


def test_what_does_not_fit_is_refused(predictor: VideoPredictor, memory: VideoMemory) -> None:
    with pytest.raises(
        QuestionError,
        match=r"does not fit beside the tokens of .*synthetic_00000\.mp4 in text\.max_tokens=",
    ):
        weigh(predictor, memory, "red " * predictor.config.text.max_tokens, "red")
    with pytest.raises(QuestionError, match="the question is empty"):
        weigh(predictor, memory, " ", "red")
