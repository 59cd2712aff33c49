"""Gradient x input attribution: its values, its cost, its memory, and the moments of a curve."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_hour.errors import QuestionError
from lit_hour.inference.attribution import (
    Attribution,
    attribute_answer,
    attribution_bytes,
    attribution_steps,
    find_moments,
)
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.memory_repository import with_tokens
from lit_hour.types import Conversation
from tests.inference.helpers import CONFIG, make_predictor, peak_allocated_bytes, random_frames

QUESTION, ANSWER = "What is there?", "a red square"


def build_prompt(predictor: VideoPredictor) -> Conversation:
    return predictor.processor.build_prompt(QUESTION)


def score(predictor: VideoPredictor, memory: VideoMemory, frame: int, scale: float) -> float:
    """Return the log-probability of the answer with the tokens of one frame scaled."""
    repository = memory.repository
    tokens = repository.tokens.unflatten(0, (repository.num_frames, -1)).clone()
    tokens[frame] *= scale  # (frames, tokens, dim)
    scaled = replace(memory, repository=with_tokens(repository, tokens.flatten(0, 1)))
    (answer,) = predictor.loglikelihood(
        scaled, predictor.processor.build_prompt(QUESTION), [ANSWER]
    )
    return answer.log_probability


def test_attribution_curve_equals_finite_differences(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    step = 0.1
    slopes = torch.tensor(
        [
            (score(predictor, memory, frame, 1 + step) - score(predictor, memory, frame, 1 - step))
            / (2 * step)
            for frame in range(memory.num_frames)
        ]
    )  # (frames,)
    attribution = attribute_answer(predictor, memory, QUESTION, ANSWER)
    assert [second for second, _ in attribution.curve] == memory.repository.timestamps.tolist()
    shares = slopes.clamp(min=0) / slopes.clamp(min=0).sum()  # (frames,)
    curve = torch.tensor([share for _, share in attribution.curve])  # (frames,)
    torch.testing.assert_close(curve, shares, atol=0.01, rtol=0)
    assert 0 < (slopes > 0).sum() < len(slopes)


def plain_gradients(
    predictor: VideoPredictor, memory: VideoMemory
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gradients of one backward pass with all activations.

    Returns:
        With respect to the embeddings that the LLM reads, `(1, tokens, dim)`, and gradient x input
        of each frame, `(frames,)`.
    """
    repository, llm = memory.repository, predictor.model.llm
    tokens = repository.tokens.detach().clone().requires_grad_()  # (memory, dim)
    differentiable = replace(memory, repository=with_tokens(repository, tokens))
    prompt = predictor.build_prompts(differentiable, [predictor.processor.build_prompt(QUESTION)])
    answer = predictor.processor.answer_ids(ANSWER)  # (tokens,)
    embeddings = torch.cat([prompt.embeddings, llm.embed(answer)[None]], dim=1)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)  # (1, tokens)
    logits = llm.logits(LLMInputs(embeddings, mask.long(), mask))[0, -len(answer) - 1 : -1]
    log_probability = -torch.nn.functional.cross_entropy(logits, answer, reduction="sum")
    of_llm, gradient = torch.autograd.grad(log_probability, (embeddings, tokens))
    scores = (gradient * tokens).detach().sum(dim=1)  # (memory,)
    return of_llm, scores.unflatten(0, (repository.num_frames, -1)).sum(dim=1)


@pytest.mark.parametrize("lora_rank", (0, 2))
def test_attribution_with_checkpointing_equals_plain_backward(lora_rank: int) -> None:
    llm = replace(
        CONFIG.model.llm,
        num_layers=5,
        initializer_range=0.1,
        lora=replace(CONFIG.model.llm.lora, rank=lora_rank),
    )
    model = replace(CONFIG.model, llm=llm, memaug=replace(CONFIG.model.memaug, num_layers=3))
    predictor = make_predictor(replace(CONFIG, model=model))
    memory = predictor.encode_visual(random_frames(30), 30.0, "noise")
    of_llm, scores = plain_gradients(predictor, memory)
    with torch.inference_mode():
        prompt = predictor.build_prompts(memory, [predictor.processor.build_prompt(QUESTION)])
    answer = predictor.processor.answer_ids(ANSWER)  # (tokens,)
    *_, gradient = predictor.model.llm.backpropagate(prompt, answer)  # (1, tokens, dim)
    assert (gradient - of_llm).norm() < 1e-6 * of_llm.norm()
    shares = scores.clamp(min=0) / scores.clamp(min=0).sum()  # (frames,)
    curve = attribute_answer(predictor, memory, QUESTION, ANSWER).curve
    found = torch.tensor([share for _, share in curve])  # (frames,)
    assert (found - shares).abs().max() < 1e-6
    assert (found > 0).sum() > 5


@contextmanager
def count_saved_activations() -> Iterator[list[int]]:
    """Append the size in bytes of each tensor that autograd saves for a backward pass."""
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def test_answers_save_no_activations_and_an_attribution_does(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    with count_saved_activations() as saved:
        list(predictor.generate(memory, QUESTION))
        conversation = predictor.processor.build_prompt(QUESTION)
        predictor.generate_batch(memory, [conversation])
        predictor.loglikelihood(memory, conversation, [ANSWER])
        assert not saved
        attribute_answer(predictor, memory, QUESTION, ANSWER)
        assert saved


def test_attribution_stops_between_two_layers(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    steps = attribution_steps(predictor, memory, build_prompt(predictor), ANSWER)
    next(steps)  # the prompt
    next(steps)  # the last norm, after a forward pass
    with count_saved_activations() as saved:
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        steps.close()
        assert not saved
    *before, last = attribution_steps(predictor, memory, build_prompt(predictor), ANSWER)
    assert before == [None] * (2 + len(predictor.model.llm.layers))
    assert isinstance(last, Attribution)


def test_attribution_is_unchanged_by_questions_between_two_steps(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    expected = attribute_answer(predictor, memory, QUESTION, ANSWER)
    answer = list(predictor.generate(memory, QUESTION))[:-1]
    steps = attribution_steps(predictor, memory, build_prompt(predictor), ANSWER)
    for step in steps:
        if step is None:
            assert list(predictor.generate(memory, QUESTION))[:-1] == answer
        else:
            assert step == expected


def test_attribution_ram_is_bounded() -> None:
    for num_layers, num_blocks, num_kv_heads, width, keep_ratio in (
        (2, 1, 2, 256, 0.02),
        (2, 6, 8, 256, 0.02),
        (12, 2, 2, 256, 0.5),
        (2, 2, 2, 2048, 0.5),
    ):
        llm = replace(
            CONFIG.model.llm,
            hidden_size=128,
            num_layers=num_layers,
            num_heads=8,
            num_key_value_heads=num_kv_heads,
            intermediate_size=width,
        )
        memaug = replace(CONFIG.model.memaug, num_layers=num_blocks, temporal_keep_ratio=keep_ratio)
        model = replace(CONFIG.model, llm=llm, memaug=memaug)
        predictor = make_predictor(replace(CONFIG, model=model))
        memory = predictor.encode_visual(random_frames(100), 100.0, "noise")
        *_, answer = predictor.generate(memory, QUESTION)
        num_answer_tokens = len(predictor.processor.answer_ids(ANSWER))
        bound = attribution_bytes(predictor, memory, answer.num_prompt_tokens, num_answer_tokens)
        peak = peak_allocated_bytes(
            lambda: attribute_answer(predictor, memory, QUESTION, ANSWER)  # noqa: B023
        )
        case = (num_layers, num_blocks, num_kv_heads, width, keep_ratio, bound / peak)
        assert peak <= bound < 4 * peak, case


def test_attribution_that_needs_more_ram_than_allowed_is_refused(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    serving = replace(predictor.config.serving, max_evidence_gb=1e-4)
    small = VideoPredictor(
        replace(predictor.config, serving=serving), predictor.model, predictor.processor
    )
    with pytest.raises(
        QuestionError, match=r"walk\.mp4 may take .* serving\.max_evidence_gb=0\.0001"
    ):
        attribute_answer(small, memory, QUESTION, ANSWER)


def test_attribution_does_not_change_the_memory(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    before = memory.repository.tokens.clone()
    first, second = (attribute_answer(predictor, memory, QUESTION, ANSWER) for _ in range(2))
    assert first == second and torch.equal(memory.repository.tokens, before)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
    assert attribute_answer(predictor, memory, QUESTION, "seven").curve != first.curve


def test_attribution_merges_repeated_frames_of_a_short_video(
    predictor: VideoPredictor, video: Path
) -> None:
    video_settings = replace(predictor.config.video, max_frames=2, min_frames=1)
    short = VideoPredictor(
        replace(predictor.config, video=video_settings), predictor.model, predictor.processor
    )
    memory = short.encode_video(video)
    assert memory.num_frames == 2 < memory.repository.num_frames
    found = attribute_answer(short, memory, QUESTION, ANSWER)
    assert len(found.curve) == 2 and sum(share for _, share in found.curve) == pytest.approx(1)


def test_attribution_of_images_is_rejected(predictor: VideoPredictor, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    with pytest.raises(QuestionError, match=r"red\.png is not a video\. Only a video has moments"):
        attribute_answer(predictor, predictor.encode_video(tmp_path / "red.png"), QUESTION, ANSWER)


def flat(*heights: tuple[int, float]) -> list[float]:
    """Return a curve of `length` frames at each height."""
    return [height for length, height in heights for _ in range(length)]


@pytest.mark.parametrize(
    ("shares", "moments"),
    [
        (flat((40, 0.0)), []),
        (flat((10, 0.0), (3, 0.3), (27, 0.0)), [(9, 14)]),
        (flat((36, 0.0), (4, 0.25)), [(35, 45)]),  # the last frame lasts until the end
        (
            flat((20, 0.0), *([(1, 0.2), (3, 0.01)] * 4), (4, 0.0)),
            [(18, 35)],
        ),  # forgetting keeps every fourth frame: one moment
        (flat((5, 0.12), (20, 0.0), (10, 0.04), (5, 0.0)), [(0, 5), (24, 36)]),
        (flat((5, 0.199), (30, 0.0), (5, 0.001)), [(0, 5)]),  # the end has less than MIN_SHARE
    ],
)
def test_moments_are_peaks_with_their_neighborhood(
    shares: list[float], moments: list[tuple[int, int]]
) -> None:
    found = find_moments(range(40), shares, 45)
    assert [(moment.start_seconds, moment.end_seconds) for moment in found] == moments
    assert sum(moment.share for moment in found) == pytest.approx(sum(shares), abs=0.015)


def test_moments_that_touch_are_joined() -> None:
    shares = flat((20, 0.0), (5, 0.04), (5, 0.12), (30, 0.0))  # a low peak beside a high one
    (moment,) = find_moments(range(60), shares, 60)
    assert (moment.start_seconds, moment.end_seconds) == (19, 31)
    assert moment.share == pytest.approx(sum(shares))


def test_moments_are_in_order_of_time() -> None:
    shares = flat((5, 0.0), (5, 0.05), (30, 0.0), (5, 0.11), (5, 0.0), (5, 0.03), (5, 0.0))
    found = find_moments(range(60), shares, 60)
    assert [round(moment.share, 2) for moment in found] == [0.25, 0.55, 0.15]
    starts = [moment.start_seconds for moment in found]
    assert starts == sorted(starts)


def test_moments_are_at_most_max_moments() -> None:
    assert len(find_moments(range(100), flat(*[(10, 0.0), (2, 0.1)] * 5, (40, 0.0)), 100)) == 3
