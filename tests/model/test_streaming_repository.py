"""A video in one piece, and the same in pieces of any length: everything is equal bit for bit."""

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.model.streaming_repository import (
    CHUNK_FRAMES,
    AppendBuffer,
    StreamingRepository,
    aligned_chunks,
)
from lit_hour.types import Features, Frames, Video
from tests.model.toy_model import (
    CONFIG,
    LEFT,
    RED,
    batch_of,
    config_with,
    frames,
    sample,
    toy_model,
)

NUM_FRAMES = 29
MIN_FRAMES = CONFIG.model.memaug.min_frames
PIECES = ((29,), (1,) * 29, (8, 8, 13), (3, 5, 21), (10, 19))


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return toy_model()


def piece(video: Video, start: int, end: int) -> Video:
    if isinstance(video, Frames):
        return Frames(video.images[start:end], video.timestamps[start:end])
    return Features(video.tokens[start:end], video.timestamps[start:end])


def stream(model: HourLLaVA, video: Video, lengths: tuple[int, ...]) -> StreamingRepository:
    """Append a video in pieces of these lengths."""
    repository = StreamingRepository(model)
    for start, end in pairwise(accumulate(lengths, initial=0)):
        repository.append(piece(video, start, end))
    return repository


def tensors_of(repository: MemoryRepository) -> list[Tensor]:
    assert repository.kv_caches
    caches = [part for kv in repository.kv_caches for part in (kv.keys, kv.values)]
    return [repository.tokens, repository.positions, repository.timestamps, *caches]


def assert_same(first: MemoryRepository, second: MemoryRepository) -> None:
    assert first.grids == second.grids
    for one, other in zip(tensors_of(first), tensors_of(second), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("kind", ("frames", "features"))
@pytest.mark.parametrize("lengths", PIECES, ids=str)
def test_pieces_give_the_repository_of_the_whole_video(
    model: HourLLaVA, kind: str, lengths: tuple[int, ...]
) -> None:
    video: Video = frames(NUM_FRAMES)
    if kind == "features":
        tokens = torch.randn(NUM_FRAMES, 16, model.vision.dim, dtype=torch.bfloat16)
        video = Features(tokens, torch.arange(NUM_FRAMES).float())
    whole = StreamingRepository(model, NUM_FRAMES)
    whole.append(video)
    assert_same(stream(model, video, lengths).repository(NUM_FRAMES), whole.repository(NUM_FRAMES))


def test_streamed_repository_equals_that_of_the_model(model: HourLLaVA) -> None:
    for num_frames in (1, MIN_FRAMES - 1, MIN_FRAMES, NUM_FRAMES):
        video = frames(num_frames)
        with torch.inference_mode():
            expected = model.with_kv_cache(model.build_repositories([video])[0])
        found = stream(model, video, (num_frames,)).repository(num_frames)
        assert found.grids == expected.grids
        for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_repeated_frames_of_a_short_video_are_not_kept(model: HourLLaVA) -> None:
    video = frames(NUM_FRAMES)
    streaming = StreamingRepository(model)
    for num_frames in range(1, MIN_FRAMES + 3):
        streaming.append(piece(video, num_frames - 1, num_frames))
        alone = stream(model, piece(video, 0, num_frames), (num_frames,))
        assert streaming.repository(num_frames).num_frames == max(num_frames, MIN_FRAMES)
        assert_same(streaming.repository(num_frames), alone.repository(num_frames))


def test_repository_does_not_change_when_frames_are_appended(model: HourLLaVA) -> None:
    video, other = frames(NUM_FRAMES), frames(NUM_FRAMES, seed=1)
    streaming = stream(model, piece(video, 0, 10), (10,))
    before = streaming.repository(10)
    copies = [tensor.clone() for tensor in tensors_of(before)]
    longer = streaming.fork_and_extend(10, piece(video, 10, 20))
    assert longer is streaming
    fork = streaming.fork_and_extend(10, piece(other, 10, 20))
    assert fork is not streaming
    assert all(torch.equal(*pair) for pair in zip(tensors_of(before), copies, strict=True))
    assert_same(longer.repository(20), stream(model, piece(video, 0, 20), (20,)).repository(20))
    both = Frames(torch.cat([video.images[:10], other.images[10:20]]), video.timestamps[:20])
    assert_same(fork.repository(20), stream(model, both, (20,)).repository(20))


def test_failed_append_leaves_the_repository_unchanged(
    model: HourLLaVA, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = frames(NUM_FRAMES)
    streaming = stream(model, piece(video, 0, 3), (3,))
    num_calls, encode_frames = [0], model.encode_frames

    def fail_at_third_call(video: Video) -> Tensor:
        num_calls[0] += 1
        if num_calls[0] == 3:
            raise MemoryError("out of memory")
        return encode_frames(video)

    monkeypatch.setattr(model, "encode_frames", fail_at_third_call)
    with pytest.raises(MemoryError):
        streaming.append(piece(frames(NUM_FRAMES, seed=5), 3, NUM_FRAMES))
    assert streaming.num_frames == 3
    monkeypatch.setattr(model, "encode_frames", encode_frames)
    streaming.append(piece(video, 3, NUM_FRAMES))
    whole = stream(model, video, (NUM_FRAMES,))
    assert_same(streaming.repository(NUM_FRAMES), whole.repository(NUM_FRAMES))


@pytest.mark.parametrize(
    "config",
    (
        config_with(replace(CONFIG.model.memaug, use_full_memory=False)),
        config_with(replace(CONFIG.model.memaug, num_layers=0)),
    ),
    ids=("without memory", "without layers"),
)
def test_model_that_does_not_attend_to_memory_builds_no_kv_cache(config: Config) -> None:
    model, video = toy_model(config), frames(NUM_FRAMES)
    found = stream(model, video, (3, 26)).repository(NUM_FRAMES)
    with torch.inference_mode():
        (expected,) = model.build_repositories([video])
        assert torch.equal(found.tokens, expected.tokens) and not found.kv_caches
        batch = batch_of(sample(video, (RED,), (LEFT,)))
        assert torch.equal(
            model.build_inputs(batch, [found]).embeddings,
            model.build_inputs(batch, [expected]).embeddings,
        )


def test_append_buffer_doubles_and_keeps_its_rows() -> None:
    buffer, capacities = AppendBuffer(torch.empty(0, 2), 3), set()
    rows = torch.randn(100, 2)
    for start in range(0, 100, 5):
        buffer.write(rows[start : start + 5], start)
        capacities.add(len(buffer.data))
        assert torch.equal(buffer.data[: start + 5], rows[: start + 5])
    assert capacities == {6, 12, 24, 48, 96, 192}


def test_chunks_are_aligned_to_the_start_of_the_sequence() -> None:
    rows = torch.arange(1, 12)[:, None]
    chunks = [
        (chunk[:, 0].tolist(), start, end)
        for chunk, start, end in aligned_chunks(rows, CHUNK_FRAMES + 6)
    ]
    assert chunks == [
        ([0, 0, 0, 0, 0, 0, 1, 2], 14, 16),
        ([3, 4, 5, 6, 7, 8, 9, 10], 16, 24),
        ([11, 0, 0, 0, 0, 0, 0, 0], 24, 25),
    ]
