"""Text embeddings and video tokens -> MemAug's query, and the sequences that the language model reads.

Source: reference arithmetic of Hour-LLaVA, sections 3 and 4 of its description: the query is the question's tokens with
the surviving video tokens in place of the placeholder; only the video rows of MemAug's output are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.types import IGNORED_LABEL, VIDEO_PLACEHOLDER


@dataclass(frozen=True)
class MemoryQuery:
    """What asks the memory: `tokens` `(query, dim)`, `positions` `(query,)`, `is_video` `(query,)` bool."""

    tokens: Tensor
    positions: Tensor
    is_video: Tensor


@dataclass(frozen=True)
class LanguageInputs:
    """What the language model reads: `embeddings` `(texts, tokens, dim)`, `labels` and `attention_mask` `(texts, tokens)`."""

    embeddings: Tensor
    labels: Tensor
    attention_mask: Tensor


def build_query(
    input_ids: Tensor, embeddings: Tensor, question_mask: Tensor, video_tokens: Tensor, video_positions: Tensor
) -> MemoryQuery:
    """Lay the question's tokens and the surviving video tokens out in text order, with their positions.

    Text counts on from what stands before it. A video token keeps its distance to the others and is shifted by the text
    before it; the memory itself is not shifted. Without a placeholder the video tokens come last.

    Args:
        input_ids: `(tokens,)` without padding.
        embeddings: `(tokens, dim)`; the row of the placeholder is not read.
        question_mask: `(tokens,)` bool, which text MemAug may see.
        video_tokens: `(kept, dim)` what survived forgetting.
        video_positions: `(kept,)` rising places in the repository.
    """
    before, after = split_at_video(input_ids)
    before_tokens = embeddings[before][question_mask[before]]  # (before, dim)
    after_tokens = embeddings[after][question_mask[after]]  # (after, dim)
    num_before, num_after, device = len(before_tokens), len(after_tokens), embeddings.device
    shifted = video_positions + num_before  # (kept,)
    positions = torch.cat(
        [
            torch.arange(num_before, device=device),
            shifted,
            shifted[-1] + 1 + torch.arange(num_after, device=device),
        ]
    )  # (query,)
    is_video = torch.zeros(len(positions), dtype=torch.bool, device=device)  # (query,)
    is_video[num_before : num_before + len(shifted)] = True
    return MemoryQuery(torch.cat([before_tokens, video_tokens.to(embeddings.dtype), after_tokens]), positions, is_video)


def split_at_video(input_ids: Tensor) -> tuple[slice, slice]:
    """The text before and after the placeholder of `(tokens,)`; everything is before it where there is none."""
    places = (input_ids == VIDEO_PLACEHOLDER).nonzero().flatten().tolist()
    if len(places) > 1:
        raise ValueError(f"one conversation has {len(places)} videos: one is supported")
    return (slice(0, places[0]), slice(places[0] + 1, None)) if places else (slice(0, None), slice(len(input_ids), None))


def insert_video(input_ids: Tensor, embeddings: Tensor, labels: Tensor, video_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Put the video's tokens in the placeholder's place.

    Args:
        input_ids: `(tokens,)` without padding.
        embeddings: `(tokens, dim)`.
        labels: `(tokens,)`.
        video_tokens: `(kept, dim)`; without a placeholder none of them is read, but they stay in the graph, so that every
            part of the model gets a gradient on every rank.

    Returns:
        Embeddings `(tokens - 1 + kept, dim)` and labels of the same length, ignored at the video's places.
    """
    before, after = split_at_video(input_ids)
    has_video = bool((input_ids == VIDEO_PLACEHOLDER).any())
    visual = (video_tokens if has_video else video_tokens[:0]).to(embeddings.dtype)  # (kept, dim)
    ignored = labels.new_full((len(visual),), IGNORED_LABEL)  # (kept,)
    return torch.cat([embeddings[before], visual, embeddings[after]]), torch.cat([labels[before], ignored, labels[after]])


def prompts_of(inputs: LanguageInputs) -> LanguageInputs:
    """Each sequence up to its first answer, padded on the left: what the model is given to answer by itself.

    MemAug sees no answers, so the video's tokens are the same with and without them.
    """
    is_prompt = inputs.attention_mask & ((inputs.labels != IGNORED_LABEL).cumsum(dim=1) == 0)  # (texts, tokens)
    sequences = [
        (embeddings[mask], labels[mask])  # (prompt, dim), (prompt,)
        for embeddings, labels, mask in zip(inputs.embeddings, inputs.labels, is_prompt, strict=True)
    ]
    return pad_inputs(sequences, inputs.labels.shape[1], "left")


def pad_inputs(
    sequences: Sequence[tuple[Tensor, Tensor]], max_tokens: int, padding_side: Literal["left", "right"]
) -> LanguageInputs:
    """Cut each sequence of embeddings `(tokens, dim)` and labels `(tokens,)` to `max_tokens` and pad them together."""
    embeddings = [embedding[:max_tokens] for embedding, _ in sequences]
    labels = [label[:max_tokens] for _, label in sequences]
    masks = [torch.ones_like(label, dtype=torch.bool) for label in labels]
    return LanguageInputs(
        pad_sequence(embeddings, batch_first=True, padding_side=padding_side),  # (texts, tokens, dim)
        pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL, padding_side=padding_side),  # (texts, tokens)
        pad_sequence(masks, batch_first=True, padding_side=padding_side),  # (texts, tokens)
    )
