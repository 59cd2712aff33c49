import hashlib
import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.model.forgetting import (
    SPATIAL,
    TEMPORAL,
    forget,
    num_kept_frames,
    spatial_random,
    spatial_uniform,
    temporal_uniform,
)
from lit_hour.model.memory_repository import MemoryRepository, TokenGrid, build_video_repository
from tests.model.published import read

PUBLISHED = MemAugConfig()  # the defaults are the paper's
FRAMES = TokenGrid(50, 8, 8)
QUESTION = torch.ones(3, 2)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def kept_of(
    repository: MemoryRepository, spatial: str, settings: MemAugConfig = PUBLISHED, seed: int = 0
) -> Tensor:
    """Of a video: one block."""
    (kept,) = forget(repository, QUESTION, spatial, settings, seeded(seed))
    return kept


def uniform_frames(num_frames: int, keep: float = 0.25, maximum: int = 512) -> Tensor:
    return temporal_uniform(
        torch.empty(num_frames, 0, 0), QUESTION, num_kept_frames(num_frames, keep, maximum)
    )


def made_repository(num_frames: int, tokens_per_frame: int = 64) -> MemoryRepository:
    tokens = torch.zeros(num_frames, tokens_per_frame, 2)
    return build_video_repository(
        tokens, torch.zeros(2), torch.arange(num_frames).float(), min_frames=1
    )


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
    repository = build_video_repository(
        tokens, recorded["image_newline"], torch.arange(num_frames).float(), PUBLISHED.min_frames
    )
    kept = kept_of(repository, "uniform")
    assert torch.equal(kept, recorded["q_position_ids"])
    assert (
        kept[16::17].div(65, rounding_mode="floor").tolist() == recorded["sampled_frames"].tolist()
    )
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
    repository = build_video_repository(
        features["image_feature"], recorded["image_newline"], torch.arange(128).float(), 128
    )
    kept = kept_of(repository, "random", seed=seed)
    assert torch.equal(kept, recorded[f"seed{seed}/q_position_ids"])
    assert torch.equal(repository.tokens[kept], recorded[f"seed{seed}/q_features"])
    places = spatial_random(TokenGrid(128, 8, 8), 0.25, seeded(seed))
    assert torch.equal(places, recorded[f"seed{seed}/spatial_indices"])


def test_kept_frames_are_the_published_ones(golden: Path) -> None:
    tables = json.loads((golden / "forgetting_frames.json").read_text(encoding="utf-8"))
    for num_frames, frames in tables["query_frames"]["by_T"].items():
        assert uniform_frames(int(num_frames)).tolist() == frames, num_frames
    for case in tables["float_pitfall"]["cases"]:
        frames = uniform_frames(case["T"])
        assert (len(frames), frames[case["index"]].tolist()) == (case["n"], case["numpy"]), case[
            "T"
        ]


def test_frames_round_as_in_the_published_model_and_not_exactly() -> None:
    """198 lengths up to 8192 frames, as counted there, keep a frame that exact integers would not."""

    def rounds_down(num_frames: int) -> bool:
        frames = uniform_frames(num_frames)  # (kept,)
        exact = torch.arange(len(frames)) * (num_frames - 1) // (len(frames) - 1)  # (kept,)
        assert ((exact - frames == 0) | (exact - frames == 1)).all()
        return not torch.equal(frames, exact)

    assert sum(map(rounds_down, range(128, 8193))) == 198


@pytest.mark.parametrize(
    ("keep", "lines"), ((1, range(8)), (1 / 4, range(0, 8, 2)), (1 / 9, range(0, 8, 3)))
)
def test_uniform_keeps_every_nth_row_and_column(keep: float, lines: range) -> None:
    kept = spatial_uniform(FRAMES, keep, seeded(0))
    assert (
        kept == torch.tensor([8 * row + column for row in lines for column in lines])
    ).all() and len(kept) == 50


@pytest.mark.parametrize(("keep", "num_kept"), ((1, 64), (1 / 4, 16), (1 / 9, 8), (0.001, 1)))
def test_random_keeps_a_share_of_each_frame(keep: float, num_kept: int) -> None:
    kept = spatial_random(FRAMES, keep, seeded(0))
    assert kept.shape == (50, num_kept)
    assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < 64


def test_random_forgetting_differs_between_frames_and_is_reproducible() -> None:
    first, again, other = (spatial_random(FRAMES, 0.25, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 50
    assert (first.flatten().bincount(minlength=64) > 0).all()  # no place is always forgotten


def test_random_forgetting_leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    kept_of(made_repository(40), "random")
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
def test_a_share_of_the_frames_survives(
    num_frames: int, keep: float, maximum: int, num_kept: int
) -> None:
    frames = uniform_frames(num_frames, keep, maximum)
    assert len(frames) == num_kept
    assert frames[0] == 0 and (num_kept == 1 or frames[-1] == num_frames - 1)
    assert (frames.diff() > 0).all()


def test_keeping_everything_forgets_nothing() -> None:
    repository = made_repository(9, tokens_per_frame=16)
    settings = MemAugConfig(spatial_keep_ratio=1, temporal_keep_ratio=1)
    for spatial in SPATIAL:
        assert torch.equal(kept_of(repository, spatial, settings), repository.positions)


@pytest.mark.parametrize("spatial", ("uniform", "random"))
def test_every_kept_frame_keeps_its_end(spatial: str) -> None:
    repository = made_repository(40)
    kept = kept_of(repository, spatial)
    assert kept.shape == (10 * 17,) and (kept.diff() > 0).all()
    assert (kept.view(10, 17)[:, -1] % 65 == 64).all()
    assert (kept.view(10, 17)[:, :-1] % 65 < 64).all()


def test_nothing_of_a_frame_is_forgotten_with_none() -> None:
    kept = kept_of(made_repository(40), "none")
    assert kept.shape == (10 * 65,) and torch.equal(
        kept.view(10, 65) % 65, torch.arange(65).expand(10, -1)
    )


def colours(*values: float) -> MemoryRepository:
    """Frames of one token each, all of one direction in the plane."""
    angles = torch.tensor(values)
    tokens = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]  # (frames, 1, 2)
    return build_video_repository(
        tokens, torch.zeros(2), torch.arange(len(values)).float(), min_frames=1
    )


def frames_of(
    repository: MemoryRepository, temporal: str, question: Tensor, **settings: float
) -> list[int]:
    config = MemAugConfig(temporal_forgetting=temporal, **settings)  # type: ignore[arg-type]
    (kept,) = forget(repository, question, "none", config, seeded(0))
    return (kept[::2] // 2).tolist()


def test_keyframes_are_those_unlike_their_neighbours() -> None:
    video = colours(0, 0, 0, 1.2, 0, 0, 0, 0, 0, -1.5, 0, 0)
    assert frames_of(video, "keyframe", QUESTION, temporal_keep_ratio=1 / 6) == [3, 9]


def test_the_only_frame_is_the_key_frame() -> None:
    assert frames_of(colours(1.0), "keyframe", QUESTION) == [0]


def test_question_frames_are_those_that_look_like_the_question() -> None:
    video = colours(0.0, 0.3, 2.0, 3.0, 1.0, 0.1, 1.55, 2.5)
    up = torch.tensor([[0.0, 9.0], [0.0, 1.0]])
    assert frames_of(video, "question", up, temporal_keep_ratio=0.25) == [2, 6]
    right = torch.tensor([[5.0, 0.0]])
    assert frames_of(video, "question", right, temporal_keep_ratio=0.25) == [0, 5]


def test_no_frame_is_forgotten_with_none_whatever_the_largest_number() -> None:
    assert frames_of(colours(*range(9)), "none", QUESTION, max_kept_frames=3) == list(range(9))


@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_each_way_to_forget_keeps_as_many_frames_and_rises(spatial: str, temporal: str) -> None:
    tokens = torch.randn(40, 64, 2, generator=seeded(0))
    repository = build_video_repository(
        tokens, torch.zeros(2), torch.arange(40).float(), min_frames=1
    )
    settings = MemAugConfig(temporal_forgetting=temporal)  # type: ignore[arg-type]
    kept = kept_of(repository, spatial, settings)
    assert len(kept) == (40 if temporal == "none" else 10) * ((64 if spatial == "none" else 16) + 1)
    assert (kept.diff() > 0).all() and torch.equal(kept, kept_of(repository, spatial, settings))


def test_the_settings_name_every_way_to_forget_and_no_other() -> None:
    hints = get_type_hints(MemAugConfig)
    assert (
        set(get_args(hints["spatial_forgetting"]))
        == set(get_args(hints["eval_spatial_forgetting"]))
        == set(SPATIAL)
    )
    assert set(get_args(hints["temporal_forgetting"])) == set(TEMPORAL)
