import json
from pathlib import Path

import pytest
import torch

from lit_hour.model.memory_repository import TokenGrid, build_video_repository, linspace_indices
from tests.model.published import read


def test_each_frame_is_closed_and_positions_count_on() -> None:
    tokens = torch.arange(2 * 4 * 4).float().view(2, 4, 4)
    end = torch.full((4,), -1.0)
    repository = build_video_repository(tokens, end, torch.tensor([0.0, 1.0]), min_frames=1)
    expected = torch.stack([*tokens[0], end, *tokens[1], end])
    assert torch.equal(repository.tokens, expected)
    assert repository.positions.tolist() == list(range(10))
    assert (repository.num_frames, repository.grids) == (2, (TokenGrid(2, 2, 2),))


def test_a_short_video_is_repeated_with_positions_of_its_own() -> None:
    tokens, timestamps = torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.tensor([0.0, 1.0, 2.0])
    repository = build_video_repository(tokens, torch.zeros(1), timestamps, min_frames=7)
    assert repository.tokens[::2].flatten().tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert repository.timestamps.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert repository.positions.tolist() == list(range(14))
    assert repository.num_frames == 7


def test_a_video_of_the_minimum_length_is_left_alone() -> None:
    tokens = torch.randn(5, 2, 3)
    repository = build_video_repository(
        tokens, torch.zeros(3), torch.arange(5).float(), min_frames=5
    )
    assert torch.equal(repository.tokens.unflatten(0, (5, 3))[:, :2], tokens)


def test_every_token_and_the_frame_end_learn() -> None:
    tokens, end = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    build_video_repository(
        tokens, end, torch.arange(2).float(), min_frames=6
    ).tokens.sum().backward()
    assert tokens.grad is not None and end.grad is not None
    assert (
        tokens.grad.sum() == 6 * 3 * 4 and (tokens.grad > 0).all()
    )  # each token once for each of its copies
    assert end.grad.tolist() == [6] * 4


@pytest.mark.parametrize("num_frames", (1, 2, 37, 100, 127))
def test_frames_are_repeated_as_published(golden: Path, num_frames: int) -> None:
    table = json.loads((golden / "forgetting_frames.json").read_text(encoding="utf-8"))[
        "upsample_below_128"
    ]["by_T"]
    assert linspace_indices(num_frames, 128).tolist() == table[str(num_frames)]


def test_the_layout_is_the_published_one(golden: Path) -> None:
    recorded, _ = read(golden, "forgetting_uniform_T128")
    repository = build_video_repository(
        recorded["image_feature"],
        recorded["image_newline"],
        torch.arange(128).float(),
        min_frames=128,
    )
    assert torch.equal(repository.tokens, recorded["kv_features"])
    assert torch.equal(repository.positions, recorded["kv_position_ids"])
