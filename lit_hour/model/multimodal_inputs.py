"""Join texts with visual tokens: the query of MemAug, and the inputs of the language model.

In the order of use: `embed_texts`, `build_memaug_query`, `merge_visual_tokens`, `pad_inputs`; and
`left_pad_prompts` for generation. The query of MemAug consists of the question's tokens, with
the kept visual tokens at the placeholders. Only the visual tokens of MemAug's output are used.

Source: the published code of Hour-LLaVA, whose outputs are recorded in tests/golden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.model.language_model import LLMInputs
from lit_hour.model.memaug import MemAugQuery
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch


@dataclass(frozen=True)
class EncodedText:
    """A text of a batch, embedded and without padding.

    Attributes:
        embeddings: `(tokens, dim)`; those of placeholders are not used.
        labels: `(tokens,)`.
        question_mask: `(tokens,)` bool, the tokens that MemAug may see; no placeholders.
        question: `(question, dim)`, the embeddings at `question_mask`.
        segments: the stretches of text before, between and after the placeholders.
        visual_index: index of the video or image in the batch.
    """

    embeddings: Tensor
    labels: Tensor
    question_mask: Tensor
    question: Tensor
    segments: list[slice]
    visual_index: int


def embed_texts(batch: Batch, embed: Callable[[Tensor], Tensor]) -> list[EncodedText]:
    """Remove the padding of each text, embed it and split it at its placeholders.

    Args:
        batch: texts.
        embed: token ids `(tokens,)` int64 -> embeddings `(tokens, dim)`; see `LanguageModel.embed`.
    """
    texts = []
    for index, visual in enumerate(batch.visual_of_text):
        is_token = batch.attention_mask[index]  # (padded tokens,)
        input_ids = batch.input_ids[index][is_token]  # (tokens,)
        embeddings = embed(input_ids)  # (tokens, dim)
        question_mask = batch.question_mask[index][is_token] & (input_ids >= 0)  # (tokens,)
        ends = (input_ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
        starts = [end + 1 for end in ends]
        texts.append(
            EncodedText(
                embeddings,
                batch.labels[index][is_token],
                question_mask,
                embeddings[question_mask],
                [slice(*bounds) for bounds in zip([0, *starts], [*ends, None], strict=True)],
                visual,
            )
        )
    return texts


def build_memaug_query(
    text: EncodedText, repository: MemoryRepository, kept: Sequence[Tensor]
) -> MemAugQuery:
    """Arrange the question's tokens and the kept visual tokens in text order, with their positions.

    Text positions count on from what precedes them. The visual tokens of a placeholder keep their
    distances to each other and are shifted by what precedes the placeholder; the memory itself is
    not shifted. Frames of a video with placeholders of their own keep their distances to the frames
    before, plus the text between. In a text without placeholders the visual tokens come last.

    Args:
        text: an embedded text.
        repository: what the text is about.
        kept: for each placeholder, the indices `(kept,)` in the repository that forgetting kept;
            the token with the largest position is the last one.

    Raises:
        ValueError: the text has another number of placeholders than the repository.
    """
    if len(text.segments) not in (1, len(kept) + 1):
        raise ValueError(
            f"A text with {len(text.segments) - 1} placeholders cannot hold the visual tokens of "
            f"{len(kept)}."
        )
    gathered = repository.memory.gather(torch.cat(list(kept)))  # (visual, dim)
    visual_tokens = gathered.to(text.embeddings.dtype).split([len(one) for one in kept])
    tokens, positions, is_visual = [], [], []
    start = torch.zeros((), dtype=torch.long, device=text.embeddings.device)  # () next position
    num_passed = torch.zeros_like(start)  # () positions of the video before this placeholder
    for segment, indices, visual in zip_longest(text.segments, kept, visual_tokens):
        if segment is not None:
            tokens.append(text.embeddings[segment][text.question_mask[segment]])  # (question, dim)
            positions.append(start + torch.arange(len(tokens[-1]), device=start.device))
            is_visual.append(torch.zeros_like(positions[-1], dtype=torch.bool))  # (question,)
            start = start + len(tokens[-1])
        if indices is not None:
            tokens.append(visual)  # (kept, dim)
            own = repository.positions[indices]  # (kept,)
            positions.append(start - num_passed + own)  # (kept,)
            is_visual.append(torch.ones_like(positions[-1], dtype=torch.bool))  # (kept,)
            start = positions[-1][-1] + 1
            num_passed = own[-1] + 1 if repository.num_frames else num_passed
    return MemAugQuery(
        torch.cat(tokens), torch.cat(positions), torch.cat(is_visual), [len(one) for one in kept]
    )


def merge_visual_tokens(
    text: EncodedText, visual_tokens: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Replace each placeholder of a text by its visual tokens.

    Args:
        text: an embedded text.
        visual_tokens: `(kept, dim)` for each placeholder. A text without placeholders uses none of
            them, but they stay in the graph, so that every parameter gets a gradient on every rank.

    Returns:
        Embeddings and labels `(tokens,)` of equal length; labels are ignored at visual tokens.
    """
    has_placeholders = len(text.segments) > 1
    embeddings, labels = [], []
    for segment, visual in zip_longest(text.segments, visual_tokens):
        if segment is not None:
            embeddings.append(text.embeddings[segment])  # (segment, dim)
            labels.append(text.labels[segment])  # (segment,)
        if visual is not None:
            used = visual[: None if has_placeholders else 0].to(text.embeddings.dtype)
            embeddings.append(used)  # (kept, dim)
            labels.append(text.labels.new_full((len(used),), IGNORE_INDEX))  # (kept,)
    return torch.cat(embeddings), torch.cat(labels)


def left_pad_prompts(inputs: LLMInputs) -> LLMInputs:
    """Keep what precedes the first answer of each text, padded on the left for generation.

    MemAug sees no answers, so the visual tokens are the same with and without them.
    """
    return pad_inputs(_prompts(inputs), inputs.labels.shape[1], "left")


def replace_answers(
    inputs: LLMInputs,
    answers: Sequence[Sequence[Tensor]],
    embed: Callable[[Tensor], Tensor],
    max_tokens: int,
) -> LLMInputs:
    """Put other answers behind the prompts of texts, each in a sequence of its own.

    Args:
        inputs: texts; their first answers and all that follows are dropped.
        answers: of each text, the token ids `(tokens,)` of its new answers.
        embed: as in `embed_texts`.
        max_tokens: longest sequence; the end of a longer one is dropped.

    Returns:
        The answers of the first text, then those of the second and so on, padded on the right, with
        labels at all of their tokens.
    """
    sequences = []
    for (prompt, labels), texts in zip(_prompts(inputs), answers, strict=True):
        for ids in texts:
            embeddings = embed(ids).to(prompt.dtype)  # (answer, dim)
            sequences.append((torch.cat([prompt, embeddings]), torch.cat([labels, ids])))
    return pad_inputs(sequences, max_tokens, "right")


def _prompts(inputs: LLMInputs) -> list[tuple[Tensor, Tensor]]:
    """Return embeddings `(prompt, dim)` and labels `(prompt,)` before each text's first answer."""
    is_answer = (inputs.labels != IGNORE_INDEX).cumsum(dim=1) > 0  # (texts, tokens)
    is_prompt = inputs.attention_mask & ~is_answer  # (texts, tokens)
    return [
        (embeddings[mask], labels[mask])  # (prompt, dim), (prompt,)
        for embeddings, labels, mask in zip(
            inputs.embeddings, inputs.labels, is_prompt, strict=True
        )
    ]


def pad_inputs(
    sequences: Sequence[tuple[Tensor, Tensor]],
    max_tokens: int,
    padding_side: Literal["left", "right"],
) -> LLMInputs:
    """Truncate the sequences of all texts to `max_tokens`, and pad them to the longest.

    Args:
        sequences: embeddings `(tokens, dim)` and labels `(tokens,)` of each text, with its visual
            tokens.
        max_tokens: longest sequence; the end of a longer one is dropped.
        padding_side: "right" for a loss, "left" for generation.
    """
    embeddings = [embedding[:max_tokens] for embedding, _ in sequences]  # (tokens, dim)
    labels = [label[:max_tokens] for _, label in sequences]  # (tokens,)
    masks = [torch.ones_like(label, dtype=torch.bool) for label in labels]  # (tokens,)
    return LLMInputs(
        pad_sequence(embeddings, batch_first=True, padding_side=padding_side),
        pad_sequence(
            labels, batch_first=True, padding_value=IGNORE_INDEX, padding_side=padding_side
        ),
        pad_sequence(masks, batch_first=True, padding_side=padding_side),
        num_truncated=sum(len(label) > max_tokens for _, label in sequences),
    )
