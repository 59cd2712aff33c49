import torch

from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import build_video_repository


def test_each_block_says_where_it_looks_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    memaug = MemoryAugmentation(
        32, num_heads=4, num_key_value_heads=2, num_layers=2, rope_theta=100.0
    )
    repository = build_video_repository(
        torch.randn(6, 4, 32), torch.randn(32), torch.arange(6.0), min_frames=1
    )
    query, positions = torch.randn(9, 32), torch.arange(9)
    before = memaug(query, repository.tokens, positions, repository.positions)
    with capture_attention(memaug) as looks:
        assert torch.equal(
            memaug(query, repository.tokens, positions, repository.positions), before
        )
    memaug(query, repository.tokens, positions, repository.positions)
    assert [look.shape for look in looks] == [(30,), (30,)]
    for look in looks:
        frames = sum_per_frame(look, repository)
        assert frames.shape == (6,) and torch.isclose(frames.sum(), torch.tensor(1.0))
        torch.testing.assert_close(frames[2], look[10:15].sum())


def test_it_looks_at_the_frame_that_answers_the_query() -> None:
    torch.manual_seed(0)
    memaug = MemoryAugmentation(
        32, num_heads=4, num_key_value_heads=2, num_layers=1, rope_theta=1e9
    )
    attention = memaug.blocks[0].cross_attention
    with torch.no_grad():
        attention.query.bias.copy_(torch.ones(32))
        attention.key.weight[:, 0] = 30.0
    frames = torch.zeros(6, 4, 32)
    frames[4, :, 0] = 1.0
    repository = build_video_repository(frames, torch.zeros(32), torch.arange(6.0), min_frames=1)
    with capture_attention(memaug) as looks:
        memaug(
            torch.zeros(3, 32),
            repository.tokens,
            torch.zeros(3, dtype=torch.long),
            repository.positions,
        )
    assert int(sum_per_frame(looks[0], repository).argmax()) == 4
