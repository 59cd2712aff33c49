"""`VideoPredictor.loglikelihood` against the training loss and against greedy decoding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.errors import QuestionError
from lit_hour.inference.answer import LogLikelihood
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.media.video_reader import load_video
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.types import Question, Sample
from tests.inference.helpers import CONFIG, make_predictor

QUESTION = Question("1", "scene", "open_ended", "What is there?", "a red square")


@pytest.fixture
def predictor() -> VideoPredictor:
    """A predictor with a training loss on turn markers, which no answer includes."""
    return make_predictor(replace(CONFIG, text=replace(CONFIG.text, loss_on_template=True)))


@pytest.fixture
def memory(predictor: VideoPredictor, video: Path) -> VideoMemory:
    return predictor.encode_video(video)


def score(
    predictor: VideoPredictor, memory: VideoMemory, question: str, *answers: str
) -> list[LogLikelihood]:
    return predictor.loglikelihood(memory, predictor.processor.build_prompt(question), answers)


def test_loglikelihood_equals_the_training_loss_of_the_answer(
    predictor: VideoPredictor, memory: VideoMemory, video: Path
) -> None:
    frames, duration_seconds = load_video(video, predictor.config.video)
    processor = HourLLaVAProcessor(
        predictor.processor.tokenizer, replace(predictor.config.text, loss_on_template=False)
    )
    sample = Sample(
        "video",
        "mine",
        duration_seconds,
        frames,
        (build_conversation([QUESTION], processor.config),),
    )
    with torch.no_grad():
        batch = processor.collate([processor.build_example(sample)])
        loss = predictor.model.llm.loss(
            predictor.model.build_inputs(batch, predictor.model.build_repositories(batch.visuals))
        ).item()
    answers = (QUESTION.answer, " a red square\n", "a blue star")
    true, padded, other = score(predictor, memory, QUESTION.question, *answers)
    assert true.loss == pytest.approx(loss, rel=1e-6)
    assert true.num_tokens == int((batch.labels >= 0).sum())
    assert padded == true and other.loss != true.loss


def test_loglikelihood_is_greedy_if_generate_returns_the_answer(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    head = predictor.model.llm.network.lm_head.weight
    results = []
    for sign in (1, -1):  # one sign makes the end of the turn the likeliest token
        with torch.no_grad():
            head.zero_()[end_of_turn_id(predictor.processor.tokenizer)] = sign
        *pieces, _ = predictor.generate(memory, QUESTION.question)
        (empty,) = score(predictor, memory, QUESTION.question, "")
        results.append((len(pieces) == 1, empty.is_greedy))
    assert sorted(results) == [(False, False), (True, True)]


def test_loglikelihood_rejects_a_question_that_is_too_long_or_empty(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    with pytest.raises(
        QuestionError,
        match=r"does not fit beside the visual tokens of .*walk\.mp4 in text\.max_tokens=",
    ):
        score(predictor, memory, "red " * predictor.config.text.max_tokens, "red")
    with pytest.raises(QuestionError, match=r"[Tt]he question is empty"):
        score(predictor, memory, " ", "red")
