import json
from pathlib import Path

import torch

from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.model.memory_repository import TokenGrid, build_video_repository
from tests.model.published_model import read


def test_newline_follows_each_frame_and_positions_count_on() -> None:
    tokens = torch.arange(2 * 4 * 4).float().view(2, 4, 4)
    newline = torch.full((4,), -1.0)
    repository = build_video_repository(tokens, newline, torch.tensor([0.0, 1.0]), min_frames=1)
    expected = torch.stack([*tokens[0], newline, *tokens[1], newline])
    assert torch.equal(repository.tokens, expected)
    assert repository.positions.tolist() == list(range(10))
    assert (repository.num_frames, repository.grids) == (2, (TokenGrid(2, 2, 2),))


def test_short_video_is_repeated_with_its_own_positions() -> None:
    tokens, timestamps = torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.tensor([0.0, 1.0, 2.0])
    repository = build_video_repository(tokens, torch.zeros(1), timestamps, min_frames=7)
    assert repository.tokens[::2].flatten().tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert repository.timestamps.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert repository.positions.tolist() == list(range(14))
    assert repository.num_frames == 7


def test_video_of_the_minimum_length_is_not_repeated() -> None:
    tokens = torch.randn(5, 2, 3)
    repository = build_video_repository(
        tokens, torch.zeros(3), torch.arange(5).float(), min_frames=5
    )
    assert torch.equal(repository.tokens.unflatten(0, (5, 3))[:, :2], tokens)


def test_repeated_frames_and_newline_get_a_gradient_for_each_copy() -> None:
    tokens, newline = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    repository = build_video_repository(tokens, newline, torch.arange(2).float(), min_frames=6)
    repository.tokens.sum().backward()
    assert tokens.grad is not None and newline.grad is not None
    assert tokens.grad.sum() == 6 * 3 * 4 and (tokens.grad > 0).all()
    assert newline.grad.tolist() == [6] * 4


def test_repeated_frames_of_a_short_video_equal_published(golden: Path) -> None:
    text = (golden / "forgetting_frames.json").read_text(encoding="utf-8")
    table = json.loads(text)["upsample_below_128"]["by_T"]
    for num_frames in (1, 2, 37, 100, 127):
        assert evenly_spaced_indices(num_frames, 128, "linspace") == table[str(num_frames)], (
            num_frames
        )


def test_video_repository_equals_published(golden: Path) -> None:
    recorded, _ = read(golden, "forgetting_uniform_T128")
    repository = build_video_repository(
        recorded["image_feature"],
        recorded["image_newline"],
        torch.arange(128).float(),
        min_frames=128,
    )
    assert torch.equal(repository.tokens, recorded["kv_features"])
    assert torch.equal(repository.positions, recorded["kv_position_ids"])
