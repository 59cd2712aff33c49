import hashlib
import json
from pathlib import Path

import pytest
import torch
from published import read
from torch import Generator, Tensor

from lit_hour.config.schema import MemoryConfig
from lit_hour.model.forgetting import forget, spatial_random, spatial_uniform, temporal_uniform
from lit_hour.model.repository import build_repository
from lit_hour.types import Repository

PUBLISHED = MemoryConfig()  # the defaults are the paper's


def made_repository(num_frames: int, tokens_per_frame: int = 64) -> Repository:
    tokens = torch.zeros(num_frames, tokens_per_frame, 2)
    return build_repository(tokens, torch.zeros(2), torch.arange(num_frames).float(), min_frames=1)


def published_tokens(recorded: dict[str, Tensor], num_frames: int) -> Tensor:
    """The recorded frame tokens; those of the longest videos are a formula."""
    if "image_feature" in recorded:
        return recorded["image_feature"]
    place, channel = torch.arange(64 * num_frames)[:, None], torch.arange(4)
    return (((37 * place + 911 * channel + 5) % 2039 - 1019) / 1024).view(num_frames, 64, 4)


def checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("num_frames", (128, 130, 300, 2100, 3600))
def test_uniform_forgetting_is_the_published_one(golden: Path, num_frames: int) -> None:
    recorded, sidecar = read(golden, f"forgetting_uniform_T{num_frames}")
    tokens = published_tokens(recorded, num_frames)
    repository = build_repository(tokens, recorded["image_newline"], torch.arange(num_frames).float(), PUBLISHED.min_frames)
    kept = forget(repository, PUBLISHED, None)
    assert torch.equal(kept, recorded["q_position_ids"])
    assert kept[16::17].div(65, rounding_mode="floor").tolist() == recorded["sampled_frames"].tolist()
    features, ids = sidecar["sha256_float32_le"], sidecar["sha256_int64_le"]
    assert checksum(tokens) == features["image_feature"]
    assert checksum(repository.tokens) == features["kv_features"]
    assert checksum(repository.tokens[kept]) == features["q_features"]
    assert checksum(repository.positions) == ids["kv_position_ids"]
    assert checksum(repository.positions[kept]) == ids["q_position_ids"]


@pytest.mark.parametrize("seed", (0, 1, 42))
def test_random_forgetting_is_the_published_one(golden: Path, seed: int) -> None:
    recorded, _ = read(golden, "forgetting_random_T128")
    features, _ = read(golden, "forgetting_uniform_T128")
    repository = build_repository(features["image_feature"], recorded["image_newline"], torch.arange(128).float(), 128)
    kept = forget(repository, PUBLISHED, Generator().manual_seed(seed))
    assert torch.equal(kept, recorded[f"seed{seed}/q_position_ids"])
    assert torch.equal(repository.tokens[kept], recorded[f"seed{seed}/q_features"])
    places = spatial_random(128, 64, 0.25, Generator().manual_seed(seed))
    assert torch.equal(places, recorded[f"seed{seed}/spatial_indices"])


def test_kept_frames_are_the_published_ones(golden: Path) -> None:
    tables = json.loads((golden / "forgetting_frames.json").read_text(encoding="utf-8"))
    for num_frames, frames in tables["query_frames"]["by_T"].items():
        assert temporal_uniform(int(num_frames), 0.25, 512).tolist() == frames, num_frames
    for case in tables["float_pitfall"]["cases"]:
        frames = temporal_uniform(case["T"], 0.25, 512)
        assert (len(frames), frames[case["index"]].tolist()) == (case["n"], case["numpy"]), case["T"]


def test_frames_round_as_in_the_published_model_and_not_exactly() -> None:
    """198 lengths up to 8192 frames, as counted there, keep a frame that exact integers would not."""

    def rounds_down(num_frames: int) -> bool:
        frames = temporal_uniform(num_frames, 0.25, 512)  # (kept,)
        exact = torch.arange(len(frames)) * (num_frames - 1) // (len(frames) - 1)  # (kept,)
        assert ((exact - frames == 0) | (exact - frames == 1)).all()
        return not torch.equal(frames, exact)

    assert sum(map(rounds_down, range(128, 8193))) == 198


@pytest.mark.parametrize(("keep", "lines"), ((1, range(8)), (1 / 4, range(0, 8, 2)), (1 / 9, range(0, 8, 3))))
def test_uniform_keeps_every_nth_row_and_column(keep: float, lines: range) -> None:
    assert spatial_uniform(8, keep).tolist() == [8 * row + column for row in lines for column in lines]


@pytest.mark.parametrize(("keep", "num_kept"), ((1, 64), (1 / 4, 16), (1 / 9, 8), (0.001, 1)))
def test_random_keeps_a_share_of_each_frame(keep: float, num_kept: int) -> None:
    kept = spatial_random(50, 64, keep, Generator().manual_seed(0))
    assert kept.shape == (50, num_kept)
    assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < 64


def test_random_forgetting_differs_between_frames_and_is_reproducible() -> None:
    first, again, other = (spatial_random(50, 64, 0.25, Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 50
    assert (first.flatten().bincount(minlength=64) > 0).all()  # no place is always forgotten


def test_random_forgetting_leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    forget(made_repository(40), PUBLISHED, Generator().manual_seed(1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("num_frames", "keep", "maximum", "num_kept"),
    (
        (100, 1, 512, 100),
        (100, 1 / 4, 512, 25),
        (103, 1 / 4, 512, 25),
        (99, 1 / 9, 512, 11),
        (90, 1 / 3, 512, 30),
        (3600, 1 / 4, 512, 512),
        (2048, 1 / 4, 512, 512),
        (100, 1, 7, 7),
        (3, 1 / 4, 512, 1),
        (1, 1 / 9, 512, 1),
    ),
)
def test_a_share_of_the_frames_survives(num_frames: int, keep: float, maximum: int, num_kept: int) -> None:
    frames = temporal_uniform(num_frames, keep, maximum)
    assert len(frames) == num_kept
    assert frames[0] == 0 and (num_kept == 1 or frames[-1] == num_frames - 1)
    assert (frames.diff() > 0).all()


def test_keeping_everything_forgets_nothing() -> None:
    repository = made_repository(9, tokens_per_frame=16)
    settings = MemoryConfig(spatial_keep=1, temporal_keep=1)
    for generator in (None, Generator().manual_seed(0)):
        assert torch.equal(forget(repository, settings, generator), repository.positions)


@pytest.mark.parametrize("seed", (None, 0))
def test_every_kept_frame_keeps_its_end(seed: int | None) -> None:
    repository = made_repository(40)
    kept = forget(repository, PUBLISHED, None if seed is None else Generator().manual_seed(seed))
    assert kept.shape == (10 * 17,) and (kept.diff() > 0).all()
    assert (kept.view(10, 17)[:, -1] % 65 == 64).all()
    assert (kept.view(10, 17)[:, :-1] % 65 < 64).all()
