"""A question about a video that is remembered, and its answer -> where in the video the answer rests.

The witness is the gradient of the answer's log-probability by the tokens of the memory, times these tokens: how much less
likely the answer were, to first order, without them. On made-up videos it finds the true moment more often than attention
does (tests/benchmarks/attribution_accuracy.py).
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
MOMENT_THRESHOLD = (
    0.5  # a moment goes on for as long as the curve stays above this share of its peak
)
SMOOTHING_RADIUS = (
    2  # frames to each side that a moment is smoothed over: as a rule every fourth one survives
)
MIN_SHARE = 0.02  # what less of the answer rests on is no moment


@dataclass(frozen=True)
class Moment:
    """A piece of a video, in seconds, and the share of an answer that rests on it."""

    start_seconds: float
    end_seconds: float
    share: float


@dataclass(frozen=True)
class Attribution:
    """Where in a video an answer rests.

    Attributes:
        moments: pieces that stand out, the one with the largest share first.
        curve: for each frame its second and its share; the shares sum to 1, or are all 0 where nothing speaks for the answer.
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
    """Where in a video the answer that the predictor gave rests.

    It takes about three times as long as a question, and the memory that training on one question takes.

    Args:
        answer: what the predictor said.
        history: of the question, as `Session.ask` has it.

    Raises:
        QuestionError: the memory is of pictures, or the question is empty or too long.
    """
    if not memory.num_frames:
        raise QuestionError(f"{memory.source} has no moments: ask where something is in a video")
    influence = _gradient_times_input(predictor, memory, question, answer, history)  # (frames,)
    share = influence.clamp(min=0)  # (frames,)
    share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)  # (frames,)
    seconds, shares = _merge_repeated_frames(memory.repository.timestamps.tolist(), share.tolist())
    return Attribution(
        find_moments(seconds, shares, memory.duration_seconds),
        tuple(zip(seconds, shares, strict=True)),
    )


def find_moments(
    seconds: Sequence[float], shares: Sequence[float], duration_seconds: float
) -> tuple[Moment, ...]:
    """The highest peaks of a curve, each with the frames around it that stay near its height.

    Args:
        seconds: of the frames, in order; a frame lasts until the next one, the last until the end.
        shares: of the frames.
    """
    ends = [*seconds[1:], max(duration_seconds, seconds[-1])]
    free = [True] * len(shares)
    height = _smooth(shares)
    moments: list[Moment] = []
    for peak in sorted(range(len(shares)), key=lambda frame: shares[frame], reverse=True):
        if len(moments) == MAX_MOMENTS or shares[peak] <= 0:
            break
        if not free[peak]:
            continue
        first = last = peak
        while first > 0 and free[first - 1] and height[first - 1] > MOMENT_THRESHOLD * height[peak]:
            first -= 1
        while (
            last + 1 < len(shares)
            and free[last + 1]
            and height[last + 1] > MOMENT_THRESHOLD * height[peak]
        ):
            last += 1
        free[first : last + 1] = [False] * (last + 1 - first)
        moments.append(Moment(seconds[first], ends[last], sum(shares[first : last + 1])))
    found = sorted(moments, key=lambda moment: moment.share, reverse=True)
    return tuple(moment for moment in found if moment.share >= MIN_SHARE)


def _smooth(shares: Sequence[float]) -> list[float]:
    """The mean over a frame and its neighbours: a frame that survives forgetting stands out among those that do not."""
    windows = (
        shares[max(0, place - SMOOTHING_RADIUS) : place + SMOOTHING_RADIUS + 1]
        for place in range(len(shares))
    )
    return [sum(window) / len(window) for window in windows]


def _gradient_times_input(
    predictor: VideoPredictor,
    memory: VideoMemory,
    question: str,
    answer: str,
    history: Sequence[Message],
) -> Tensor:
    """How much more likely each frame makes the answer: `(frames,)`."""
    repository = memory.repository
    with torch.inference_mode(mode=False), torch.enable_grad():
        tokens = repository.tokens.detach().clone().requires_grad_()  # (memory, dim)
        watched = replace(memory, repository=with_tokens(repository, tokens))
        prompt = predictor.build_prompt(watched, [predictor.processor.ask(question, history)])
        answer_ids = predictor.processor.answer_ids(answer).to(predictor.device)  # (tokens,)
        log_probability = predictor.model.llm.log_probability(prompt, answer_ids)  # ()
        (gradient,) = torch.autograd.grad(log_probability, tokens)  # (memory, dim)
    return (
        (gradient * tokens.detach())
        .float()
        .sum(dim=1)
        .unflatten(0, (repository.num_frames, -1))
        .sum(dim=1)
    )  # (frames,)


def _merge_repeated_frames(
    seconds: list[float], shares: list[float]
) -> tuple[list[float], list[float]]:
    """A short video's frames are in memory more than once: each second once, with the shares of its copies together."""
    merged: dict[float, float] = {}
    for second, share in zip(seconds, shares, strict=True):
        merged[second] = merged.get(second, 0.0) + share
    return list(merged), list(merged.values())
