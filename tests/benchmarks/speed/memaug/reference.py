"""MemAug and the repository with random weights: by the model, and by the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.model import MemAugConfig
from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.memaug import MemAugQuery, MemoryAugmentation
from lit_hour.model.memory_repository import build_video_repository
from lit_hour.model.vision_encoder import Projector

TOLERANCE = 1e-4  # of the largest entry, in float32
NUM_TEXT_TOKENS = 64
ROPE_THETA = 1_000_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of the video.

    Attributes:
        query_frames: most frames that survive forgetting; at most a quarter of all frames do.
    """

    num_frames: int
    num_layers: int
    query_frames: int = 512
    dim: int = 2048
    num_heads: int = 16
    num_key_value_heads: int = 2
    vision_dim: int = 1152
    grid: int = 8

    def __str__(self) -> str:
        return (
            f"{self.num_frames:,} frames, width {self.dim:,}, {self.num_layers} of 4 layers,"
            f" {self.num_heads} heads"
        )


@dataclass(frozen=True)
class Work:
    """Random weights and inputs."""

    shape: Shape
    projector: Projector
    memory: MemoryAugmentation
    frame_newline: nn.Parameter  # (dim,)
    features: Tensor  # (frames, tokens, vision_dim)
    timestamps: Tensor  # (frames,)
    texts: list[Tensor]  # (text, dim) each

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [*self.projector.parameters(), *self.memory.parameters(), self.frame_newline]


Implementation = Callable[[Work], list[Tensor]]  # returns (visual, dim) for each text


def build(shape: Shape, num_texts: int = 1) -> Work:
    """Build the same weights and inputs each time, with allocated gradients.

    They are in bf16 on a GPU, and in float32 on a CPU.
    """
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    sizes = (
        shape.dim,
        shape.num_heads,
        shape.num_key_value_heads,
        shape.num_layers,
        ROPE_THETA,
        shape.dim**-0.5,
    )
    with torch.device(device):
        work = Work(
            shape,
            Projector(shape.vision_dim, shape.dim).to(dtype),
            MemoryAugmentation(*sizes).to(dtype),
            nn.Parameter(torch.randn(shape.dim, dtype=dtype)),
            torch.randn(shape.num_frames, shape.grid**2, shape.vision_dim, dtype=dtype),
            torch.arange(shape.num_frames),
            [torch.randn(NUM_TEXT_TOKENS, shape.dim, dtype=dtype) for _ in range(num_texts)],
        )
    for weight in work.weights:
        weight.grad = torch.zeros_like(weight)
    return work


def ours(work: Work) -> list[Tensor]:
    """Run MemAug as the model does in training."""
    repository = build_video_repository(
        work.features, work.frame_newline, work.timestamps, 1, lazy_projector=work.projector
    )
    config = MemAugConfig(max_kept_frames=work.shape.query_frames)
    (kept,) = choose_kept_tokens(repository, work.texts[0], config, None)  # (kept,)
    visual, positions = repository.memory.gather(kept), _query_positions(kept)  # (kept, dim)
    is_visual = torch.arange(len(positions)) >= NUM_TEXT_TOKENS  # (query,)
    queries = [
        MemAugQuery(torch.cat([text, visual]), positions, is_visual, [len(kept)])
        for text in work.texts
    ]
    return work.memory(queries, [repository], [0] * len(queries))


def plain(work: Work, grouped: bool = False) -> list[Tensor]:
    """Run the published formula; each text computes its own keys and values."""
    tokens = work.projector(work.features)  # (frames, tokens, dim)
    newlines = work.frame_newline.expand(len(tokens), 1, -1)  # (frames, 1, dim)
    memory = torch.cat([tokens, newlines], dim=1).flatten(0, 1)  # (frames * (tokens + 1), dim)
    rows = torch.arange(0, work.shape.grid, 2)  # (rows,)
    in_frame = torch.cat(
        [(rows[:, None] * work.shape.grid + rows).flatten(), torch.tensor([work.shape.grid**2])]
    )  # (kept,)
    num_kept = min(work.shape.query_frames, len(tokens) // 4)
    frames = torch.linspace(0, len(tokens) - 1, num_kept, dtype=torch.float64)  # (kept frames,)
    starts = frames.floor().long() * (work.shape.grid**2 + 1)  # (kept frames,)
    kept = (starts[:, None] + in_frame).flatten().to(memory.device)  # (kept,)
    query_positions = _query_positions(kept)  # (query,)
    memory_positions = torch.arange(len(memory), device=memory.device)  # (memory,)
    outputs = []
    for text in work.texts:
        query = torch.cat([text, memory[kept]])  # (query, dim)
        for block in work.memory.blocks:
            output = _attend(
                block.self_attention, query, query, query_positions, query_positions, grouped
            )
            query = block.self_attention_norm(query + output)  # (query, dim)
            output = _attend(
                block.cross_attention, query, memory, query_positions, memory_positions, grouped
            )
            query = block.cross_attention_norm(query + output)  # (query, dim)
            query = block.feed_forward_norm(query + block.feed_forward(query))  # (query, dim)
        outputs.append(query[len(text) :])  # (visual, dim)
    return outputs


def mixed(implementation: Implementation, work: Work) -> list[Tensor]:
    """Run an implementation as `training.precision=bf16-mixed` does, with weights in float32."""
    with torch.autocast(work.features.device.type, torch.bfloat16):
        return implementation(work)


def _attend(
    layer: nn.Module,
    query: Tensor,
    memory: Tensor,
    query_positions: Tensor,
    memory_positions: Tensor,
    grouped: bool,
) -> Tensor:
    """Attend from `query` `(query, dim)` to `memory` `(memory, dim)`."""
    split = (-1, layer.head_dim)
    queries = _rotate(layer.query(query).unflatten(1, split), query_positions)
    keys = _rotate(layer.key(memory).unflatten(1, split), memory_positions)
    values = layer.value(memory).unflatten(1, split)  # (memory, key_value_heads, head_dim)
    queries, keys, values = (
        heads.transpose(0, 1)[None] for heads in (queries, keys, values)
    )  # (1, heads, tokens, head_dim)
    if not grouped:
        group = queries.shape[1] // keys.shape[1]
        keys, values = (heads.repeat_interleave(group, dim=1) for heads in (keys, values))
    output = F.scaled_dot_product_attention(queries, keys, values, enable_gqa=grouped)
    return layer.output(output[0].transpose(0, 1).flatten(1))  # (query, dim)


def _rotate(heads: Tensor, positions: Tensor) -> Tensor:
    """Apply rotary positions to the first half of each head: `(tokens, heads, head_dim)`."""
    quarter = heads.shape[-1] // 4
    exponents = -torch.arange(quarter, device=heads.device) / quarter  # (quarter,)
    frequencies = ROPE_THETA**exponents  # (quarter,)
    angles = (positions.float()[:, None] * frequencies)[:, None]  # (tokens, 1, quarter)
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    left, right, rest = heads.split([quarter, quarter, 2 * quarter], dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine, rest], dim=-1)


def _query_positions(kept: Tensor) -> Tensor:
    text = torch.arange(NUM_TEXT_TOKENS, device=kept.device)  # (text,)
    return torch.cat([text, kept + NUM_TEXT_TOKENS])  # (query,)


def forward_backward(work: Work, implementation: Implementation) -> Tensor:
    """Run forward and backward, and return the outputs."""
    for weight in work.weights:
        weight.grad.zero_()  # type: ignore[union-attr]
    outputs = torch.cat(implementation(work))  # (queries, dim)
    numbers = torch.arange(outputs.numel(), device=outputs.device).view_as(outputs)
    signs = numbers * 7 % 3 - 1  # (queries, dim) of -1, 0 and 1
    (outputs * signs).sum().backward()
    return outputs.detach()


def check_equal() -> None:
    """Check that ours equals the plain formula in outputs and gradients.

    Raises:
        ArithmeticError: they differ.
    """
    work = build(Shape(num_frames=12, num_layers=2, dim=512, num_heads=4), num_texts=2)
    if work.features.is_cuda:
        work = replace(  # float32 on a GPU too
            work,
            projector=work.projector.float(),
            memory=work.memory.float(),
            frame_newline=nn.Parameter(work.frame_newline.detach().float()),
            features=work.features.float(),
            texts=[text.float() for text in work.texts],
        )
        for weight in work.weights:
            weight.grad = torch.zeros_like(weight)
    results = []
    for implementation in (ours, plain):
        outputs = forward_backward(work, implementation)
        gradients = [weight.grad.clone() for weight in work.weights]  # type: ignore[union-attr]
        results.append([outputs, *gradients])
    worst = max(
        float((actual - expected).abs().max() / expected.abs().max())
        for actual, expected in zip(*results, strict=True)
    )
    print(
        f"ours equals the plain formula to {worst:.1e} of the largest entry, outputs and gradients"
    )
    if not worst <= TOLERANCE:
        raise ArithmeticError(
            f"ours differs from the plain formula by {worst:.1e} of the largest entry"
        )
