"""A video in one piece, and the same in pieces of any length: everything has to be equal to the bit."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import CachedRepository, MemoryRepository
from lit_hour.model.streaming_repository import (
    BLOCK_FRAMES,
    AppendBuffer,
    StreamingRepository,
    aligned_blocks,
)
from lit_hour.types import Features, Frames, Video
from tests.model.small import CONFIG, LEFT, PROCESSOR, RED, frames, sample, small_model, with_memory

NUM_FRAMES = 29
MIN_FRAMES = CONFIG.model.memaug.min_frames
PIECES = ((29,), (1,) * 29, (8, 8, 13), (3, 5, 21), (10, 19))


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return small_model()


def piece(video: Video, start: int, end: int) -> Video:
    if isinstance(video, Frames):
        return Frames(video.images[start:end], video.timestamps[start:end])
    return Features(video.tokens[start:end], video.timestamps[start:end])


def grow(model: HourLLaVA, video: Video, lengths: tuple[int, ...]) -> StreamingRepository:
    growing, ends = (
        StreamingRepository(model),
        [sum(lengths[:place]) for place in range(len(lengths) + 1)],
    )
    for start, end in pairwise(ends):
        growing.append(piece(video, start, end))
    return growing


def all_of(repository: MemoryRepository) -> list[Tensor]:
    assert isinstance(repository, CachedRepository)
    prepared = [part for each in repository.kv_caches for part in (each.keys, each.values)]
    return [repository.tokens, repository.positions, repository.timestamps, *prepared]


def assert_same(first: MemoryRepository, second: MemoryRepository) -> None:
    assert first.grids == second.grids
    for one, other in zip(all_of(first), all_of(second), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("kind", ("frames", "features"))
@pytest.mark.parametrize("lengths", PIECES, ids=str)
def test_pieces_make_the_memory_of_the_whole(
    model: HourLLaVA, kind: str, lengths: tuple[int, ...]
) -> None:
    video: Video = frames(NUM_FRAMES)
    if kind == "features":
        video = Features(
            torch.randn(NUM_FRAMES, 16, model.vision.dim, dtype=torch.bfloat16),
            torch.arange(NUM_FRAMES).float(),
        )
    whole = StreamingRepository(model, NUM_FRAMES)
    whole.append(video)
    assert_same(grow(model, video, lengths).repository(NUM_FRAMES), whole.repository(NUM_FRAMES))


def test_it_is_what_the_model_remembers(model: HourLLaVA) -> None:
    for num_frames in (1, MIN_FRAMES - 1, MIN_FRAMES, NUM_FRAMES):
        video = frames(num_frames)
        with torch.inference_mode():
            expected = model.with_kv_cache(model.build_repositories([video])[0])
        found = grow(model, video, (num_frames,)).repository(num_frames)
        assert found.grids == expected.grids
        for one, other in zip(all_of(found), all_of(expected), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_copies_of_a_short_video_do_not_stay_in(model: HourLLaVA) -> None:
    video = frames(NUM_FRAMES)
    growing = StreamingRepository(model)
    for num_frames in range(1, MIN_FRAMES + 3):
        growing.append(piece(video, num_frames - 1, num_frames))
        alone = grow(model, piece(video, 0, num_frames), (num_frames,))
        assert growing.repository(num_frames).num_frames == max(num_frames, MIN_FRAMES)
        assert_same(growing.repository(num_frames), alone.repository(num_frames))


def test_a_memory_stays_as_it_is_when_more_comes(model: HourLLaVA) -> None:
    video, other = frames(NUM_FRAMES), frames(NUM_FRAMES, seed=1)
    growing = grow(model, piece(video, 0, 10), (10,))
    before = growing.repository(10)
    kept = [part.clone() for part in all_of(before)]
    longer = growing.fork_and_extend(10, piece(video, 10, 20))
    assert longer is growing
    aside = growing.fork_and_extend(10, piece(other, 10, 20))
    assert aside is not growing
    assert all(torch.equal(*parts) for parts in zip(all_of(before), kept, strict=True))
    assert_same(longer.repository(20), grow(model, piece(video, 0, 20), (20,)).repository(20))
    both = Frames(torch.cat([video.images[:10], other.images[10:20]]), video.timestamps[:20])
    assert_same(aside.repository(20), grow(model, both, (20,)).repository(20))


def test_what_breaks_off_leaves_no_trace(model: HourLLaVA, monkeypatch: pytest.MonkeyPatch) -> None:
    video = frames(NUM_FRAMES)
    growing = grow(model, piece(video, 0, 3), (3,))
    calls, encode = [0], model.encode_visuals

    def fail_later(visuals: list[Video]) -> list[Tensor]:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError("no room")
        return encode(visuals)

    monkeypatch.setattr(model, "encode_visuals", fail_later)
    with pytest.raises(MemoryError):
        growing.append(piece(frames(NUM_FRAMES, seed=5), 3, NUM_FRAMES))
    assert len(growing) == 3
    monkeypatch.setattr(model, "encode_visuals", encode)
    growing.append(piece(video, 3, NUM_FRAMES))
    assert_same(
        growing.repository(NUM_FRAMES), grow(model, video, (NUM_FRAMES,)).repository(NUM_FRAMES)
    )


@pytest.mark.parametrize("config", (
    with_memory(replace(CONFIG.model.memaug, use_full_memory=False)),
    with_memory(replace(CONFIG.model.memaug, num_layers=0)),
), ids=("looks nowhere", "no layers"))  # fmt: skip
def test_a_model_that_does_not_look_back_prepares_nothing(config: Config) -> None:
    model, video = small_model(config), frames(NUM_FRAMES)
    found = grow(model, video, (3, 26)).repository(NUM_FRAMES)
    with torch.inference_mode():
        plain = model.build_repositories([video])[0]
        assert torch.equal(found.tokens, plain.tokens) and not getattr(found, "kv_caches", ())
        batch = PROCESSOR.batch([PROCESSOR.example(sample(video, (RED,), (LEFT,)))])
        assert torch.equal(
            model.build_inputs(batch, [found]).embeddings,
            model.build_inputs(batch, [plain]).embeddings,
        )


def test_room_doubles_and_rows_stay() -> None:
    rows, rooms = AppendBuffer(torch.empty(0, 2), 3), set()
    content = torch.randn(100, 2)
    for start in range(0, 100, 5):
        rows.write(content[start : start + 5], start)
        rooms.add(len(rows.data))
        assert torch.equal(rows.data[: start + 5], content[: start + 5])
    assert rooms == {6, 12, 24, 48, 96, 192}


def test_blocks_are_counted_from_the_beginning() -> None:
    rows = torch.arange(1, 12)[:, None]
    blocks = [
        (block[:, 0].tolist(), real) for block, real in aligned_blocks(rows, BLOCK_FRAMES + 6)
    ]
    assert blocks == [
        ([0, 0, 0, 0, 0, 0, 1, 2], slice(6, 8)),
        ([3, 4, 5, 6, 7, 8, 9, 10], slice(0, 8)),
        ([11, 0, 0, 0, 0, 0, 0, 0], slice(0, 1)),
    ]
