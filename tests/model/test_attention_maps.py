import torch

from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import build_video_repository
from tests.model.toy_model import augment


def test_captured_weights_sum_to_one_and_the_output_is_unchanged() -> None:
    torch.manual_seed(0)
    memaug = MemoryAugmentation(
        32, num_heads=4, num_key_value_heads=2, num_layers=2, rope_theta=100.0
    )
    repository = build_video_repository(
        torch.randn(6, 4, 32), torch.randn(32), torch.arange(6.0), min_frames=1
    )
    args = torch.randn(9, 32), repository.tokens, range(9), repository.positions
    before = augment(memaug, *args)
    with capture_attention(memaug) as captured:
        assert torch.equal(augment(memaug, *args), before)
    augment(memaug, *args)
    assert [weights.shape for weights in captured] == [(30,), (30,)]
    for weights in captured:
        frames = sum_per_frame(weights, repository)
        assert frames.shape == (6,) and torch.isclose(frames.sum(), torch.tensor(1.0))
        torch.testing.assert_close(frames[2], weights[10:15].sum())


def test_captured_weights_are_largest_at_the_frame_that_matches_the_query() -> None:
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
    with capture_attention(memaug) as captured:
        augment(memaug, torch.zeros(3, 32), repository.tokens, [0, 0, 0], repository.positions)
    assert int(sum_per_frame(captured[0], repository).argmax()) == 4
