"""Text embeddings and visual tokens -> MemAug's query, and the sequences that the language model reads.

Source: reference arithmetic of Hour-LLaVA, sections 3 and 4 of its description: the query is the question's tokens with
the surviving visual tokens in place of the placeholders; only the visual rows of MemAug's output are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class MemAugQuery:
    """What asks the memory: `tokens` `(query, dim)`, `positions` `(query,)`, `is_visual` `(query,)` bool.

    `lengths` counts the visual tokens in the place of each placeholder.
    """

    tokens: Tensor
    positions: Tensor
    is_visual: Tensor
    num_visual_tokens: list[int]


@dataclass(frozen=True)
class LLMInputs:
    """What the language model reads: `embeddings` `(texts, tokens, dim)`, `labels` and `attention_mask` `(texts, tokens)`.

    `num_cut` of the texts were longer than they may be and have lost their end.
    """

    embeddings: Tensor
    labels: Tensor
    attention_mask: Tensor
    num_truncated: int = 0


def build_memaug_query(
    input_ids: Tensor,
    embeddings: Tensor,
    question_mask: Tensor,
    visual_tokens: Sequence[Tensor],
    visual_positions: Sequence[Tensor],
) -> MemAugQuery:
    """Lay the question's tokens and the surviving visual tokens out in text order, with their positions.

    Text counts on from what stands before it. A visual token keeps its distance to the others of its block and is shifted
    by what stands before the block; the memory itself is not shifted. Without placeholders the visual tokens come last.

    Args:
        input_ids: `(tokens,)` without padding.
        embeddings: `(tokens, dim)`; the row of a placeholder is not read.
        question_mask: `(tokens,)` bool, which text MemAug may see.
        visual_tokens: `(kept, dim)` what survived forgetting, for each placeholder.
        visual_positions: `(kept,)` their positions in the repository, the largest last.
    """
    tokens, positions, is_visual = [], [], []
    start = torch.zeros(
        (), dtype=torch.long, device=embeddings.device
    )  # () where the next run of text begins
    for place, text in enumerate(split_at_placeholders(input_ids, len(visual_tokens))):
        seen = embeddings[text][question_mask[text]]  # (seen, dim)
        tokens.append(seen)
        positions.append(start + torch.arange(len(seen), device=embeddings.device))  # (seen,)
        is_visual.append(torch.zeros_like(positions[-1], dtype=torch.bool))  # (seen,)
        start = start + len(seen)
        if place < len(visual_tokens):
            tokens.append(visual_tokens[place].to(embeddings.dtype))  # (kept, dim)
            positions.append(start + visual_positions[place])  # (kept,)
            is_visual.append(torch.ones_like(positions[-1], dtype=torch.bool))  # (kept,)
            start = positions[-1][-1] + 1
    lengths = [len(visual) for visual in visual_tokens]
    return MemAugQuery(torch.cat(tokens), torch.cat(positions), torch.cat(is_visual), lengths)


def split_at_placeholders(input_ids: Tensor, num_blocks: int) -> list[slice]:
    """The runs of text of `(tokens,)` around the placeholders, one of which stands for each block of visual tokens.

    Without any placeholder the whole text is the first run and the blocks stand behind it.
    """
    places = (input_ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
    if not places:
        return [slice(0, None), *[slice(len(input_ids), None)] * num_blocks]
    if len(places) != num_blocks:
        raise ValueError(
            f"a text with {len(places)} placeholders cannot hold {num_blocks} blocks of visual tokens"
        )
    return [
        slice(*bounds)
        for bounds in zip([0, *(place + 1 for place in places)], [*places, None], strict=True)
    ]


def merge_visual_tokens(
    input_ids: Tensor, embeddings: Tensor, labels: Tensor, visual_tokens: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Put each block of visual tokens in its placeholder's place.

    Args:
        input_ids: `(tokens,)` without padding.
        embeddings: `(tokens, dim)`.
        labels: `(tokens,)`.
        visual_tokens: `(kept, dim)` for each placeholder; without placeholders none of them is read, but they stay in the
            graph, so that every part of the model gets a gradient on every rank.

    Returns:
        Embeddings and labels of equal length, ignored at the visual places.
    """
    has_placeholders = bool((input_ids == IMAGE_TOKEN_INDEX).any())
    mixed_embeddings, mixed_labels = [], []
    for place, text in enumerate(split_at_placeholders(input_ids, len(visual_tokens))):
        mixed_embeddings.append(embeddings[text])  # (text, dim)
        mixed_labels.append(labels[text])  # (text,)
        if place < len(visual_tokens):
            visual = visual_tokens[place][: None if has_placeholders else 0].to(
                embeddings.dtype
            )  # (kept, dim)
            mixed_embeddings.append(visual)
            mixed_labels.append(labels.new_full((len(visual),), IGNORE_INDEX))  # (kept,)
    return torch.cat(mixed_embeddings), torch.cat(mixed_labels)


def truncate_to_prompts(inputs: LLMInputs) -> LLMInputs:
    """Each sequence up to its first answer, padded on the left: what the model is given to answer by itself.

    MemAug sees no answers, so the visual tokens are the same with and without them.
    """
    is_prompt = inputs.attention_mask & (
        (inputs.labels != IGNORE_INDEX).cumsum(dim=1) == 0
    )  # (texts, tokens)
    sequences = [
        (embeddings[mask], labels[mask])  # (prompt, dim), (prompt,)
        for embeddings, labels, mask in zip(
            inputs.embeddings, inputs.labels, is_prompt, strict=True
        )
    ]
    return pad_inputs(sequences, inputs.labels.shape[1], "left")


def pad_inputs(
    sequences: Sequence[tuple[Tensor, Tensor]],
    max_tokens: int,
    padding_side: Literal["left", "right"],
) -> LLMInputs:
    """Cut each sequence of embeddings `(tokens, dim)` and labels `(tokens,)` to `max_tokens` and pad them together."""
    embeddings = [embedding[:max_tokens] for embedding, _ in sequences]
    labels = [label[:max_tokens] for _, label in sequences]
    masks = [torch.ones_like(label, dtype=torch.bool) for label in labels]
    return LLMInputs(
        pad_sequence(
            embeddings, batch_first=True, padding_side=padding_side
        ),  # (texts, tokens, dim)
        pad_sequence(
            labels, batch_first=True, padding_value=IGNORE_INDEX, padding_side=padding_side
        ),  # (texts, tokens)
        pad_sequence(masks, batch_first=True, padding_side=padding_side),  # (texts, tokens)
        num_truncated=sum(len(label) > max_tokens for _, label in sequences),
    )
