"""Ranks that have parts of a memory attend to it as one process that has all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from lit_hour.model import sharded_memory
from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import KVCache, MemoryRepository
from lit_hour.model.sharded_memory import (
    Group,
    ShardedTokens,
    attend_sharded,
    attend_with_log_sum,
    divide_frames,
)
from lit_hour.model.streaming_repository import CHUNK_FRAMES, StreamingRepository
from lit_hour.types import Frames
from tests.helpers.fork import fork_ranks
from tests.model.toy_model import CONFIG, LEFT, RED, batch_of, frames, sample, toy_model

TOLERANCE = 1e-6
NUM_FRAMES = 61  # no multiple of the ranks or of a chunk


def on_ranks(num_ranks: int, folder: Path, work: Callable[[Group], None]) -> None:
    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        dist.init_process_group("gloo")
        work(dist.group.WORLD)

    ranks = fork_ranks(run, [folder / f"{rank}.txt" for rank in range(num_ranks)])
    assert ranks.wait() == [0] * num_ranks, "\n".join(map(ranks.output, range(num_ranks)))


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, scale))


def test_log_sum_is_of_the_scaled_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, keys, values = (torch.randn(2, length, 8) for length in (5, 40, 40))
    monkeypatch.setattr(sharded_memory, "MAX_SCORES", 2 * 40 * 2)  # two queries at once
    attended, log_sums = attend_with_log_sum(query, keys, values)
    close(attended, F.scaled_dot_product_attention(query, keys, values))
    close(log_sums, (query @ keys.mT / 8**0.5).logsumexp(dim=-1))


# With a spread of 60 one token of one rank has all weight, and float32 rounds scores of 200.
@pytest.mark.parametrize(("spread", "tolerance"), [(1.0, TOLERANCE), (60.0, 3e-5)])
def test_merged_attention_and_its_gradients_equal_attention_to_all(
    tmp_path: Path, spread: float, tolerance: float
) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, length, 8) * scale for length, scale in ((5, spread), (40, 1), (40, 1))]
    bounds = [0, 25, 25, 40]  # the second rank has nothing
    tensors = [tensor.clone().requires_grad_() for tensor in given]
    expected = F.scaled_dot_product_attention(*tensors)  # (heads, query, head_dim)
    expected.square().sum().backward()

    def attend(group: Group) -> None:
        rank = dist.get_rank(group)
        part = slice(bounds[rank], bounds[rank + 1])
        query, keys, values = given[0].clone(), given[1][:, part].clone(), given[2][:, part].clone()
        local = [tensor.requires_grad_() for tensor in (query, keys, values)]
        found = attend_sharded(query, keys, values, group)
        close(found.detach(), expected.detach(), tolerance)
        found.square().sum().backward()
        full = [tensor.grad for tensor in tensors]
        wanted = [full[0], full[1][:, part], full[2][:, part]]
        for tensor, gradient in zip(local, wanted, strict=True):
            close(tensor.grad, gradient, 5 * tolerance)

    on_ranks(3, tmp_path, attend)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_inputs_of_a_divided_video_equal_those_of_one_process(
    tmp_path: Path, num_ranks: int
) -> None:
    model, video = toy_model(), frames(NUM_FRAMES)
    whole = StreamingRepository(model, NUM_FRAMES)
    whole.append(video)
    plain = whole.repository(NUM_FRAMES)
    batch = batch_of(sample(video, (RED,), (LEFT,)))
    with torch.inference_mode():
        expected = model.build_inputs(batch, [plain])

    def build(group: Group) -> None:
        part = divide_frames(NUM_FRAMES, CHUNK_FRAMES, group)
        stream = StreamingRepository(model, part.stop - part.start, part.start)
        stream.append(Frames(video.images[part], video.timestamps[part]))
        divided = stream.sharded_repository(video.timestamps, group)
        memory = divided.memory
        assert isinstance(memory, ShardedTokens) and len(memory.tensor) < len(plain.tokens) * 0.6
        assert torch.equal(divided.positions, plain.positions) and divided.grids == plain.grids
        check_parts_are_equal(divided, plain, part)
        assert torch.equal(memory.gather(torch.arange(0, 900, 7)), plain.tokens[:900:7])
        assert torch.equal(divided.tokens, plain.tokens)
        check_forgetting_is_equal(model, divided, plain)
        with torch.inference_mode():
            found = model.build_inputs(batch, [divided])
        close(found.embeddings, expected.embeddings)
        assert torch.equal(found.labels, expected.labels)

    on_ranks(num_ranks, tmp_path, build)


def check_parts_are_equal(divided: MemoryRepository, plain: MemoryRepository, part: slice) -> None:
    frame_length = len(plain.tokens) // NUM_FRAMES
    rows = slice(part.start * frame_length, part.stop * frame_length)
    for found, expected in zip(divided.kv_caches, plain.kv_caches, strict=True):
        assert isinstance(found, KVCache) and found.group is not None
        assert torch.equal(found.keys, expected.keys[rows])
        assert torch.equal(found.values, expected.values[rows])


def check_forgetting_is_equal(
    model: HourLLaVA, divided: MemoryRepository, plain: MemoryRepository
) -> None:
    question = torch.zeros(1, model.llm.dim)
    config = replace(CONFIG.model.memaug, temporal_forgetting="uniform")
    found, expected = (
        choose_kept_tokens(one, question, config, None)[0] for one in (divided, plain)
    )
    assert torch.equal(found, expected) and len(found) > 10


@pytest.mark.slow
def test_frames_are_divided_in_chunks_and_in_rank_order(tmp_path: Path) -> None:
    def divide(group: Group) -> None:
        for num_frames in (32, 33, 61, 36_000):
            parts: list[slice] = [slice(0)] * 4
            dist.all_gather_object(parts, divide_frames(num_frames, CHUNK_FRAMES, group))
            assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
            assert parts[0].start == 0 and parts[-1].stop == num_frames
            sizes = [part.stop - part.start for part in parts]
            assert min(sizes) > 0 and max(sizes) - min(sizes) <= 2 * CHUNK_FRAMES
            assert all(part.start % CHUNK_FRAMES == 0 for part in parts)

    on_ranks(4, tmp_path, divide)
