"""A training step by plain formulas, which `lit_hour.model` is compared with.

Texts are processed one after the other: the video is encoded at once, all tokens are projected, and
the text attends to all of them with keys and values repeated for every query head. transformers'
Qwen2 then reads all texts padded together, computes logits at every position, and its own loss.
Weights, kept tokens, positions, AdamW and its schedule are those of `lit_hour`; they are not
compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import GroupedQueryAttention, MemoryAugmentationBlock
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository, TokenGrid
from lit_hour.model.multimodal_inputs import (
    build_memaug_query,
    embed_texts,
    merge_visual_tokens,
    pad_inputs,
)
from lit_hour.types import Batch, Features, Frames, Video


def plain_loss(model: HourLLaVA, batch: Batch, generators: Sequence[Generator]) -> Tensor:
    """Return the loss `()`, equal to `model(batch, generators)` up to rounding."""
    texts = []
    for index, text in enumerate(embed_texts(batch, model.llm.embed)):
        video = batch.visuals[text.visual_index]
        assert isinstance(video, Video)
        repository = build_repository(model, video)
        kept = choose_kept_tokens(repository, text.question, model.config.memaug, generators[index])
        query = build_memaug_query(text, repository, kept)
        augmented = augment(
            model, query.tokens, repository.tokens, query.positions, repository.positions
        )  # (query, dim)
        visual = augmented[query.is_visual].split(query.num_visual_tokens)
        texts.append(merge_visual_tokens(text, visual))
    inputs = pad_inputs(texts, model.max_tokens, "right")
    return model.llm.network(
        inputs_embeds=inputs.embeddings,
        attention_mask=inputs.attention_mask,
        labels=inputs.labels,
        use_cache=False,
    ).loss


def build_repository(model: HourLLaVA, video: Video) -> MemoryRepository:
    """Encode, pool and project every frame, and append the newline token to each."""
    tokens = encode(model, video) if isinstance(video, Frames) else model.vision.pool(video.tokens)
    first, _, last = model.projector.layers
    hidden = F.gelu(
        F.linear(tokens.to(first.weight.dtype), first.weight, first.bias)
    )  # (frames, tokens, dim)
    projected = F.linear(hidden, last.weight, last.bias)  # (frames, tokens, dim)
    with_newlines = torch.cat(
        [projected, model.frame_newline.expand(len(projected), 1, -1)], dim=1
    )  # (frames, tokens + 1, dim)
    memory = with_newlines.flatten(0, 1)  # (frames * (tokens + 1), dim)
    grid = model.vision.config.grid
    return MemoryRepository(
        DenseTokens(memory),
        torch.arange(len(memory), device=tokens.device),
        (TokenGrid(len(video), grid, grid),),
        video.timestamps,
    )


def encode(model: HourLLaVA, video: Frames | Features) -> Tensor:
    """Encode all frames at once by open_clip's tower: `(frames, tokens, vision_dim)`."""
    assert isinstance(video, Frames)
    vision = model.vision
    device, dtype = video.images.device, next(vision.parameters()).dtype
    mean, std = (
        torch.tensor(color, device=device).view(3, 1, 1) for color in (vision.mean, vision.std)
    )
    pixels = ((video.images / 255 - mean) / std).to(dtype)  # (frames, 3, height, width)
    with torch.set_grad_enabled(
        torch.is_grad_enabled() and len(video) <= vision.config.max_trainable_frames
    ):
        outputs = vision.tower.forward_intermediates(
            pixels,
            indices=[-1],
            normalize_intermediates=False,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return vision.pool(outputs["image_intermediates"][0])  # (frames, tokens, vision_dim)


def augment(
    model: HourLLaVA,
    query: Tensor,
    memory: Tensor,
    query_positions: Tensor,
    memory_positions: Tensor,
) -> Tensor:
    """Run MemAug: `query` `(query, dim)` attends to `memory` `(memory, dim)`."""
    for block in model.memaug.blocks:
        assert isinstance(block, MemoryAugmentationBlock)
        theta = model.memaug.rope_theta
        output = attend(block.self_attention, query, query, query_positions, query_positions, theta)
        query = block.self_attention_norm(query + output)  # (query, dim)
        output = attend(
            block.cross_attention, query, memory, query_positions, memory_positions, theta
        )  # (query, dim)
        query = block.cross_attention_norm(query + output)  # (query, dim)
        query = block.feed_forward_norm(query + block.feed_forward(query))  # (query, dim)
    return query


def attend(
    layer: GroupedQueryAttention,
    query: Tensor,
    memory: Tensor,
    query_positions: Tensor,
    memory_positions: Tensor,
    theta: float,
) -> Tensor:
    """Attend from `query` `(query, dim)` to `memory` `(memory, dim)`, with repeated heads."""
    split = (-1, layer.head_dim)
    queries = layer.query(query).unflatten(1, split)  # (query, heads, head_dim)
    keys = layer.key(memory).unflatten(1, split)  # (memory, key_value_heads, head_dim)
    values = layer.value(memory).unflatten(1, split)  # (memory, key_value_heads, head_dim)
    queries, keys = rotate(queries, query_positions, theta), rotate(keys, memory_positions, theta)
    group = queries.shape[1] // keys.shape[1]
    keys = keys.repeat_interleave(group, dim=1)  # (memory, heads, head_dim)
    values = values.repeat_interleave(group, dim=1)  # (memory, heads, head_dim)
    output = F.scaled_dot_product_attention(
        *(heads.transpose(0, 1)[None] for heads in (queries, keys, values))
    )  # (1, heads, query, head_dim)
    return layer.output(output[0].transpose(0, 1).flatten(1))  # (query, dim)


def rotate(heads: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Apply rotary positions to the first half of each head: `(tokens, heads, head_dim)`."""
    half = heads.shape[-1] // 2
    exponents = torch.arange(0, half, 2, device=heads.device) / half  # (head_dim / 4,)
    frequencies = theta**-exponents  # (head_dim / 4,)
    angles = positions[:, None, None].float() * frequencies  # (tokens, 1, head_dim / 4)
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    left, right, rest = heads.split([half // 2, half // 2, heads.shape[-1] - half], dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine, rest], dim=-1)
