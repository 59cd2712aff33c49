"""Attribution of an answer to moments of the video, by gradient x input of its log-probability.

The score of a frame is a first-order estimate of how much the log-probability of the answer would
drop without the frame's memory tokens. On synthetic videos it finds the true moment more often
than attention weights do (`tests/benchmarks/attribution_accuracy.py`). Entry point:
`attribute_answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_hour.errors import QuestionError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.memory_repository import with_tokens
from lit_hour.types import Message

MAX_MOMENTS = 3
MOMENT_THRESHOLD = 0.5  # a moment extends while the smoothed curve is above this share of its peak
SMOOTHING_RADIUS = 2  # frames; forgetting usually keeps every fourth frame
MIN_SHARE = 0.02  # of the attribution; a moment with less is dropped


@dataclass(frozen=True)
class Moment:
    """An interval of a video in seconds, with its share of the attribution."""

    start_seconds: float
    end_seconds: float
    share: float


@dataclass(frozen=True)
class Attribution:
    """The contribution of each part of a video to an answer.

    Attributes:
        moments: intervals that stand out, the one with the largest share first.
        curve: the time in seconds and the share of each frame. The shares sum to 1, or are all 0
            if no frame raises the probability of the answer.
    """

    moments: tuple[Moment, ...]
    curve: tuple[tuple[float, float], ...]


def attribute_answer(
    predictor: VideoPredictor,
    memory: VideoMemory,
    question: str,
    answer: str,
    history: Sequence[Message] = (),
) -> Attribution:
    """Return the moments of the video that a generated answer is based on.

    This takes about three times as long as a question, and as much RAM as training on one.

    Args:
        predictor: that generated the answer.
        memory: of the video.
        question: text of the user.
        answer: text that was generated.
        history: as for `VideoPredictor.generate`.

    Raises:
        QuestionError: the memory is one of images, or the question is empty or too long.
    """
    if not memory.num_frames:
        raise QuestionError(f"{memory.source} is not a video. Only a video has moments.")
    scores = _gradient_times_input(predictor, memory, question, answer, history)  # (frames,)
    shares = scores.clamp(min=0)  # (frames,)
    shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)  # (frames,)
    times = memory.repository.timestamps.tolist()
    seconds, merged_shares = _merge_repeated_frames(times, shares.tolist())
    return Attribution(
        find_moments(seconds, merged_shares, memory.duration_seconds),
        tuple(zip(seconds, merged_shares, strict=True)),
    )


def find_moments(
    seconds: Sequence[float], shares: Sequence[float], duration_seconds: float
) -> tuple[Moment, ...]:
    """Return the highest peaks of a curve, each with the neighboring frames of similar height.

    Args:
        seconds: start of each frame, in order; a frame ends where the next one starts, and the
            last one at `duration_seconds`.
        shares: of each frame.
        duration_seconds: of the video.
    """
    ends = [*seconds[1:], max(duration_seconds, seconds[-1])]
    is_free = [True] * len(shares)
    heights = _moving_average(shares)
    moments: list[Moment] = []
    for peak in sorted(range(len(shares)), key=lambda frame: shares[frame], reverse=True):
        if len(moments) == MAX_MOMENTS or shares[peak] <= 0:
            break
        if not is_free[peak]:
            continue
        first = last = peak
        threshold = MOMENT_THRESHOLD * heights[peak]
        while first > 0 and is_free[first - 1] and heights[first - 1] > threshold:
            first -= 1
        while last + 1 < len(shares) and is_free[last + 1] and heights[last + 1] > threshold:
            last += 1
        is_free[first : last + 1] = [False] * (last + 1 - first)
        moments.append(Moment(seconds[first], ends[last], sum(shares[first : last + 1])))
    moments.sort(key=lambda moment: moment.share, reverse=True)
    return tuple(moment for moment in moments if moment.share >= MIN_SHARE)


def _moving_average(shares: Sequence[float]) -> list[float]:
    """Smooth the curve: frames that survive forgetting score higher than their neighbors."""
    radius = SMOOTHING_RADIUS
    windows = [shares[max(0, frame - radius) : frame + radius + 1] for frame in range(len(shares))]
    return [sum(window) / len(window) for window in windows]


def _gradient_times_input(
    predictor: VideoPredictor,
    memory: VideoMemory,
    question: str,
    answer: str,
    history: Sequence[Message],
) -> Tensor:
    """Return how much each frame raises the log-probability of the answer: `(frames,)`."""
    repository = memory.repository
    with torch.inference_mode(mode=False), torch.enable_grad():
        tokens = repository.tokens.detach().clone().requires_grad_()  # (memory, dim)
        differentiable = replace(memory, repository=with_tokens(repository, tokens))
        conversation = predictor.processor.build_prompt(question, history)
        prompt = predictor.build_llm_inputs(differentiable, [conversation])
        answer_ids = predictor.processor.answer_ids(answer).to(predictor.device)  # (tokens,)
        log_probability = predictor.model.llm.log_probability(prompt, answer_ids)  # ()
        (gradient,) = torch.autograd.grad(log_probability, tokens)  # (memory, dim)
    scores = (gradient * tokens.detach()).float().sum(dim=1)  # (memory,)
    return scores.unflatten(0, (repository.num_frames, -1)).sum(dim=1)  # (frames,)


def _merge_repeated_frames(
    seconds: list[float], shares: list[float]
) -> tuple[list[float], list[float]]:
    """Add up the shares of equal times: the frames of a short video are repeated in memory."""
    merged: dict[float, float] = {}
    for second, share in zip(seconds, shares, strict=True):
        merged[second] = merged.get(second, 0.0) + share
    return list(merged), list(merged.values())
