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

from lit_hour.model.attention import GroupedQueryAttention
from lit_hour.model.forgetting import forget
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import MemoryAugmentationBlock
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
    for text in embed_texts(batch, model.llm.embed):
        video = batch.visuals[text.visual]
        assert isinstance(video, Video)
        repository = remember(model, video)
        generator = generators[text.visual]
        kept = forget(repository, text.question, model.config.memaug, generator)
        query = build_memaug_query(text, repository, kept)
        seen = look_back(
            model, query.tokens, repository.tokens, query.positions, repository.positions
        )  # (query, dim)
        texts.append(
            merge_visual_tokens(text, seen[query.is_visual].split(query.num_visual_tokens))
        )
    inputs = pad_inputs(texts, model.max_tokens, "right")
    return model.llm.network(
        inputs_embeds=inputs.embeddings,
        attention_mask=inputs.attention_mask,
        labels=inputs.labels,
        use_cache=False,
    ).loss


def remember(model: HourLLaVA, video: Video) -> MemoryRepository:
    """Encode, pool and project every frame, and close each by the learnt token."""
    tokens = encode(model, video) if isinstance(video, Frames) else model.vision.pool(video.tokens)
    first, _, last = model.projector.layers
    hidden = F.gelu(
        F.linear(tokens.to(first.weight.dtype), first.weight, first.bias)
    )  # (frames, tokens, dim)
    projected = F.linear(hidden, last.weight, last.bias)  # (frames, tokens, dim)
    closed = torch.cat(
        [projected, model.frame_newline.expand(len(projected), 1, -1)], dim=1
    )  # (frames, tokens + 1, dim)
    laid_out = closed.flatten(0, 1)  # (frames * (tokens + 1), dim)
    grid = model.vision.config.grid
    return MemoryRepository(
        DenseTokens(laid_out),
        torch.arange(len(laid_out), device=tokens.device),
        (TokenGrid(len(video), grid, grid),),
        video.timestamps,
    )


def encode(model: HourLLaVA, video: Frames | Features) -> Tensor:
    """All frames of a video at once through open_clip's tower: `(frames, tokens, vision_dim)`."""
    assert isinstance(video, Frames)
    vision = model.vision
    mean, deviation = (
        torch.tensor(each, device=video.images.device).view(3, 1, 1)
        for each in (vision.mean, vision.std)
    )
    pixels = ((video.images / 255 - mean) / deviation).to(
        next(vision.parameters()).dtype
    )  # (frames, 3, height, width)
    with torch.set_grad_enabled(
        torch.is_grad_enabled() and len(video) <= vision.config.max_trainable_frames
    ):
        found = vision.tower.forward_intermediates(
            pixels,
            indices=[-1],
            normalize_intermediates=False,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return vision.pool(found["image_intermediates"][0])  # (frames, tokens, vision_dim)


def look_back(
    model: HourLLaVA,
    query: Tensor,
    memory: Tensor,
    query_positions: Tensor,
    memory_positions: Tensor,
) -> Tensor:
    """MemAug: `query` `(query, dim)` into `memory` `(memory, dim)`."""
    for block in model.memaug.blocks:
        assert isinstance(block, MemoryAugmentationBlock)
        theta = model.memaug.rotary.theta
        own = attend(
            block.self_attention, query, query, query_positions, query_positions, theta
        )  # (query, dim)
        query = block.self_attention_norm(query + own)  # (query, dim)
        seen = attend(
            block.cross_attention, query, memory, query_positions, memory_positions, theta
        )  # (query, dim)
        query = block.cross_attention_norm(query + seen)  # (query, dim)
        query = block.feed_forward_norm(query + block.feed_forward(query))  # (query, dim)
    return query


def attend(
    layer: GroupedQueryAttention,
    asking: Tensor,
    asked: Tensor,
    asking_positions: Tensor,
    asked_positions: Tensor,
    theta: float,
) -> Tensor:
    """Attention of `asking` `(query, dim)` into `asked` `(memory, dim)`, a key and a value for each
    query head."""
    query, key, value = (
        part.unflatten(1, (-1, layer.head_dim))
        for part in (layer.query(asking), layer.key(asked), layer.value(asked))
    )  # (query, heads, head_dim), (memory, key_value_heads, head_dim) twice
    query, key = rotate(query, asking_positions, theta), rotate(key, asked_positions, theta)
    group = query.shape[1] // key.shape[1]
    key, value = (
        key.repeat_interleave(group, dim=1),
        value.repeat_interleave(group, dim=1),
    )  # (memory, heads, head_dim)
    seen = F.scaled_dot_product_attention(
        *(each.transpose(0, 1)[None] for each in (query, key, value))
    )
    return layer.output(seen[0].transpose(0, 1).flatten(1))  # (query, dim)


def rotate(heads: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary positions in the first half of each head: `(tokens, heads, head_dim)`."""
    half = heads.shape[-1] // 2
    frequencies = theta ** -(
        torch.arange(0, half, 2, device=heads.device) / half
    )  # (head_dim / 4,)
    angles = positions[:, None, None].float() * frequencies  # (tokens, 1, head_dim / 4)
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    left, right, rest = heads.split([half // 2, half // 2, heads.shape[-1] - half], dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine, rest], dim=-1)
