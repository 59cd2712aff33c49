"""Attribution of an answer to moments of the video, by gradient x input of its log-probability.

The score of a frame is a first-order estimate of how much the log-probability of the answer would
drop without the frame's memory tokens. On synthetic videos it finds the true moment more often
than attention weights do (`tests/benchmarks/attribution_accuracy.py`). It costs a backward pass, so
it is computed on request only. Entry points: `attribute_answer`, and `attribution_steps` for a
caller that may stop early.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_hour.errors import QuestionError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.memory_repository import with_tokens
from lit_hour.text.time_intervals import Interval
from lit_hour.types import Conversation, Message

MAX_MOMENTS = 3
MOMENT_THRESHOLD = 0.5  # a moment extends while the smoothed curve is above this share of its peak
SMOOTHING_RADIUS = 2  # frames; forgetting usually keeps every fourth frame
MIN_SHARE = 0.02  # of the attribution; a moment with less is dropped
CHUNK_TOKENS = 1024  # of the memory; gradient x input is computed for so many at a time


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
        moments: intervals that stand out, in order of time; none begins where another ends.
        curve: the time in seconds and the share of each frame. The shares sum to 1, or are all 0
            if no frame raises the probability of the answer.
    """

    moments: tuple[Moment, ...]
    curve: tuple[tuple[float, float], ...]

    @property
    def intervals(self) -> list[Interval]:
        """The moments as `grounding_scores` takes a stated answer: the largest share first."""
        ranked = sorted(self.moments, key=lambda moment: moment.share, reverse=True)
        return [(moment.start_seconds, moment.end_seconds) for moment in ranked]


def attribute_answer(
    predictor: VideoPredictor,
    memory: VideoMemory,
    question: str,
    answer: str,
    history: Sequence[Message] = (),
) -> Attribution:
    """Return where in the video the model looked for an answer that it generated.

    Args:
        predictor: that generated the answer.
        memory: of the video.
        question: text of the user.
        answer: text that was generated.
        history: as for `VideoPredictor.generate`.

    Raises:
        QuestionError: the question is empty, or as `attribution_steps`.
    """
    conversation = predictor.processor.build_prompt(question, history)
    *_, attribution = attribution_steps(predictor, memory, conversation, answer)
    assert attribution is not None
    return attribution


@torch.inference_mode(mode=False)
def attribution_steps(
    predictor: VideoPredictor,
    memory: VideoMemory,
    conversation: Conversation,
    answer: str,
) -> Generator[Attribution | None, None, None]:
    """Attribute an answer in steps: the forward pass, each layer backward, MemAug backward.

    All steps together take about five times as long as an answer about an hour. Activations are
    checkpointed, so memory use is at most `attribution_bytes`.

    Args:
        predictor: that generated the answer.
        memory: of the video.
        conversation: up to the answer.
        answer: text that was generated.

    Yields:
        None after each step, then the attribution. Close the generator to stop early.

    Raises:
        QuestionError: the memory is one of images, the conversation is too long, or the
            attribution may take more than `serving.max_evidence_gb`.
    """
    repository, processor = memory.repository, predictor.processor
    if not memory.num_frames:
        raise QuestionError(f"{memory.source} is not a video. Only a video has moments.")
    answer_ids = processor.answer_ids(answer).to(predictor.device)  # (tokens,)
    _check_memory_use(predictor, memory, 0, len(answer_ids))
    tokens = repository.tokens.detach().clone().requires_grad_()  # (memory, dim)
    differentiable = replace(memory, repository=with_tokens(repository, tokens))
    with torch.enable_grad():
        prompt = predictor.build_prompts(differentiable, [conversation])
    num_prompt_tokens = prompt.embeddings.shape[1]
    _check_memory_use(predictor, memory, num_prompt_tokens, len(answer_ids))
    yield None
    for gradient in predictor.model.llm.backpropagate(prompt, answer_ids):
        yield None
        llm_gradient = gradient[:, :num_prompt_tokens]  # (1, prompt, dim)
    (gradient,) = torch.autograd.grad(prompt.embeddings, tokens, llm_gradient)  # (memory, dim)
    scores = _gradient_times_input(gradient, tokens.detach())  # (memory,)
    scores = scores.unflatten(0, (repository.num_frames, -1)).sum(dim=1)  # (frames,)
    yield _summarize(scores, memory)


def attribution_bytes(
    predictor: VideoPredictor, memory: VideoMemory, num_prompt_tokens: int, num_answer_tokens: int
) -> int:
    """Return an upper bound on the memory that the attribution of an answer takes, in bytes.

    The weights and the video memory itself are not included. The larger of two parts counts: the
    backward pass of the language model with the inputs of all its layers and the activations of
    one, and that of MemAug with gradients of all memory tokens and the keys and values of a block.

    Args:
        predictor: that generated the answer.
        memory: of the video.
        num_prompt_tokens: read by the language model, visual tokens included.
        num_answer_tokens: of the answer.
    """
    llm, tokens = predictor.model.llm, memory.repository.tokens
    num_memory_tokens, dim = tokens.shape
    kv_dim = dim * llm.num_key_value_heads // llm.num_heads
    num_tokens = num_prompt_tokens + num_answer_tokens
    num_inputs = len(predictor.model.memaug.blocks) + 2  # kept until the end of the backward pass
    per_token = (len(llm.layers) + num_inputs + 16) * dim
    per_token += 8 * llm.network.config.intermediate_size
    llm_values = num_memory_tokens * dim + num_tokens * per_token
    memaug_values = num_memory_tokens * (4 * dim + 6 * kv_dim)
    memaug_values += num_tokens * (num_inputs + 24) * dim
    logits_bytes = 20 * num_answer_tokens * llm.vocab_size
    return tokens.element_size() * max(llm_values, memaug_values) + logits_bytes


def _check_memory_use(
    predictor: VideoPredictor, memory: VideoMemory, num_prompt_tokens: int, num_answer_tokens: int
) -> None:
    limit_gb = predictor.config.serving.max_evidence_gb
    needed_gb = attribution_bytes(predictor, memory, num_prompt_tokens, num_answer_tokens) / 1e9
    if needed_gb > limit_gb:
        raise QuestionError(
            f"The evidence for an answer about {memory.source} may take {needed_gb:.3g} GB of"
            f" memory, more than serving.max_evidence_gb={limit_gb:g}. Raise it, or take a shorter"
            " video."
        )


def _gradient_times_input(gradient: Tensor, tokens: Tensor) -> Tensor:
    """Return the float32 dot products of the rows of two matrices `(memory, dim)`: `(memory,)`."""
    chunks = zip(gradient.split(CHUNK_TOKENS), tokens.split(CHUNK_TOKENS), strict=True)
    return torch.cat([(one.float() * other.float()).sum(dim=1) for one, other in chunks])


def _summarize(scores: Tensor, memory: VideoMemory) -> Attribution:
    """Return the attribution with the scores `(frames,)` of a video's frames as curve."""
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
    """Return the highest peaks of a curve with their neighborhood, in order of time.

    A peak extends over the neighboring frames of similar height. Moments that touch are joined.

    Args:
        seconds: start of each frame, in order; a frame ends where the next one starts, and the
            last one at `duration_seconds`.
        shares: of each frame.
        duration_seconds: of the video.
    """
    ends = [*seconds[1:], max(duration_seconds, seconds[-1])]
    is_free = [True] * len(shares)
    heights = _moving_average(shares)
    spans: list[tuple[int, int]] = []  # first and last frame
    for peak in sorted(range(len(shares)), key=lambda frame: shares[frame], reverse=True):
        if len(spans) == MAX_MOMENTS or shares[peak] <= 0:
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
        spans.append((first, last))
    spans = [span for span in spans if sum(shares[span[0] : span[1] + 1]) >= MIN_SHARE]
    return tuple(
        Moment(seconds[first], ends[last], sum(shares[first : last + 1]))
        for first, last in _join_adjacent(spans)
    )


def _join_adjacent(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return disjoint spans of frames in order, joined where one begins right after another."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and joined[-1][1] + 1 == first:
            first, _ = joined.pop()
        joined.append((first, last))
    return joined


def _moving_average(shares: Sequence[float]) -> list[float]:
    """Smooth the curve: frames that survive forgetting score higher than their neighbors."""
    radius = SMOOTHING_RADIUS
    windows = [shares[max(0, frame - radius) : frame + radius + 1] for frame in range(len(shares))]
    return [sum(window) / len(window) for window in windows]


def _merge_repeated_frames(
    seconds: list[float], shares: list[float]
) -> tuple[list[float], list[float]]:
    """Add up the shares of equal times: the frames of a short video are repeated in memory."""
    merged: dict[float, float] = {}
    for second, share in zip(seconds, shares, strict=True):
        merged[second] = merged.get(second, 0.0) + share
    return list(merged), list(merged.values())
