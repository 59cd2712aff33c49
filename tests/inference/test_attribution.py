"""Gradient x input attribution against finite differences, and the moments of a curve."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_hour.errors import QuestionError
from lit_hour.inference.attribution import attribute_answer, find_moments
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.memory_repository import with_tokens

QUESTION, ANSWER = "What is there?", "a red square"


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


def test_the_curve_equals_finite_differences(
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


def test_attribution_does_not_change_the_memory(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    before = memory.repository.tokens.clone()
    first, second = (attribute_answer(predictor, memory, QUESTION, ANSWER) for _ in range(2))
    assert first == second and torch.equal(memory.repository.tokens, before)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
    assert attribute_answer(predictor, memory, QUESTION, "seven").curve != first.curve


def test_repeated_frames_of_a_short_video_are_merged(
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


def test_images_are_rejected(predictor: VideoPredictor, tmp_path: Path) -> None:
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


def test_there_are_at_most_max_moments() -> None:
    assert len(find_moments(range(100), flat(*[(10, 0.0), (2, 0.1)] * 5, (40, 0.0)), 100)) == 3
