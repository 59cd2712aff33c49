import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.model.forgetting import (
    CONTENT_BASED,
    SPATIAL,
    choose_kept_tokens,
    keep_random,
    keep_uniform,
    kept_frames,
)
from lit_hour.model.memory_repository import MemoryRepository, TokenGrid, build_video_repository
from tests.model.published_model import read

PUBLISHED = MemAugConfig()  # the defaults are the paper's
FRAMES = TokenGrid(50, 8, 8)
QUESTION = torch.ones(3, 2)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def kept_of(
    repository: MemoryRepository, spatial: str, config: MemAugConfig = PUBLISHED, seed: int = 0
) -> Tensor:
    """Return the kept tokens of a video, which has one placeholder."""
    config = replace(config, spatial_forgetting=spatial)  # type: ignore[arg-type]
    (kept,) = choose_kept_tokens(repository, QUESTION, config, seeded(seed))
    return kept


def zeros_repository(num_frames: int, tokens_per_frame: int = 64) -> MemoryRepository:
    tokens = torch.zeros(num_frames, tokens_per_frame, 2)
    return build_video_repository(
        tokens, torch.zeros(2), torch.arange(num_frames).float(), min_frames=1
    )


def uniform_frames(num_frames: int, keep_ratio: float = 0.25, max_frames: int = 512) -> Tensor:
    config = MemAugConfig(temporal_keep_ratio=keep_ratio, max_kept_frames=max_frames)
    return kept_frames(zeros_repository(num_frames, tokens_per_frame=1), QUESTION, config)


def published_tokens(recorded: dict[str, Tensor], num_frames: int) -> Tensor:
    """Return the recorded frame tokens; long videos are recorded as a formula."""
    if "image_feature" in recorded:
        return recorded["image_feature"]
    index, channel = torch.arange(64 * num_frames)[:, None], torch.arange(4)
    return (((37 * index + 911 * channel + 5) % 2039 - 1019) / 1024).view(num_frames, 64, 4)


def checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("num_frames", (128, 130, 300, 2100, 3600))
def test_uniform_forgetting_equals_published(golden: Path, num_frames: int) -> None:
    recorded, sidecar = read(golden, f"forgetting_uniform_T{num_frames}")
    tokens = published_tokens(recorded, num_frames)
    repository = build_video_repository(
        tokens, recorded["image_newline"], torch.arange(num_frames).float(), PUBLISHED.min_frames
    )
    kept = kept_of(repository, "uniform")
    assert torch.equal(kept, recorded["q_position_ids"])
    frames = kept[16::17].div(65, rounding_mode="floor")  # of the newline tokens
    assert frames.tolist() == recorded["sampled_frames"].tolist()
    features, ids = sidecar["sha256_float32_le"], sidecar["sha256_int64_le"]
    assert checksum(tokens) == features["image_feature"]
    assert checksum(repository.tokens) == features["kv_features"]
    assert checksum(repository.tokens[kept]) == features["q_features"]
    assert checksum(repository.positions) == ids["kv_position_ids"]
    assert checksum(repository.positions[kept]) == ids["q_position_ids"]


@pytest.mark.parametrize("seed", (0, 1, 42))
def test_random_forgetting_equals_published(golden: Path, seed: int) -> None:
    recorded, _ = read(golden, "forgetting_random_T128")
    features, _ = read(golden, "forgetting_uniform_T128")
    repository = build_video_repository(
        features["image_feature"], recorded["image_newline"], torch.arange(128).float(), 128
    )
    kept = kept_of(repository, "random", seed=seed)
    assert torch.equal(kept, recorded[f"seed{seed}/q_position_ids"])
    assert torch.equal(repository.tokens[kept], recorded[f"seed{seed}/q_features"])
    mask = keep_random(TokenGrid(128, 8, 8), 0.25, seeded(seed))  # (128, 8, 8)
    indices = mask.flatten(1).nonzero()[:, 1].view(128, -1)  # (128, kept)
    assert torch.equal(indices, recorded[f"seed{seed}/spatial_indices"])


def test_kept_frames_equal_published(golden: Path) -> None:
    tables = json.loads((golden / "forgetting_frames.json").read_text(encoding="utf-8"))
    for num_frames, expected in tables["query_frames"]["by_T"].items():
        assert uniform_frames(int(num_frames)).tolist() == expected, num_frames
    for case in tables["float_pitfall"]["cases"]:
        frames = uniform_frames(case["T"])
        found = len(frames), frames[case["index"]].tolist()
        assert found == (case["n"], case["numpy"]), case["T"]


def test_kept_frames_round_as_published_and_not_exactly() -> None:
    """198 lengths up to 8192 frames keep a frame that exact integers would not, as counted
    there."""

    def differs(num_frames: int) -> bool:
        frames = uniform_frames(num_frames)  # (kept,)
        exact = torch.arange(len(frames)) * (num_frames - 1) // (len(frames) - 1)  # (kept,)
        assert ((exact - frames == 0) | (exact - frames == 1)).all()
        return not torch.equal(frames, exact)

    assert sum(map(differs, range(128, 8193))) == 198


@pytest.mark.parametrize(
    ("keep_ratio", "lines"), ((1, range(8)), (1 / 4, range(0, 8, 2)), (1 / 9, range(0, 8, 3)))
)
def test_uniform_keeps_every_nth_row_and_column(keep_ratio: float, lines: range) -> None:
    mask = keep_uniform(FRAMES, keep_ratio, seeded(0))
    expected = [[row in lines and column in lines for column in range(8)] for row in range(8)]
    assert mask.shape == (50, 8, 8) and (mask == torch.tensor(expected)).all()


@pytest.mark.parametrize(("keep_ratio", "num_kept"), ((1, 64), (1 / 4, 16), (1 / 9, 8), (0.001, 1)))
def test_random_keeps_a_share_of_each_frame(keep_ratio: float, num_kept: int) -> None:
    mask = keep_random(FRAMES, keep_ratio, seeded(0))
    assert mask.shape == (50, 8, 8) and (mask.sum(dim=(1, 2)) == num_kept).all()


def test_random_forgetting_differs_between_frames_and_is_reproducible() -> None:
    first, again, other = (keep_random(FRAMES, 0.25, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 50
    assert first.any(dim=0).all()  # every token is kept in some frame


def test_random_forgetting_does_not_change_the_global_random_state() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    kept_of(zeros_repository(40), "random")
    assert torch.equal(torch.rand(3), expected)


def test_kept_frames_are_a_share_of_the_video() -> None:
    for num_frames, keep_ratio, max_frames, num_kept in (
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
    ):
        frames = uniform_frames(num_frames, keep_ratio, max_frames)
        case = num_frames, keep_ratio, max_frames
        assert len(frames) == num_kept, case
        assert frames[0] == 0 and (num_kept == 1 or frames[-1] == num_frames - 1), case
        assert (frames.diff() > 0).all(), case


def test_forgetting_with_ratios_of_one_keeps_everything() -> None:
    repository = zeros_repository(9, tokens_per_frame=16)
    config = MemAugConfig(spatial_keep_ratio=1, temporal_keep_ratio=1)
    for spatial in SPATIAL:
        assert torch.equal(kept_of(repository, spatial, config), repository.positions), spatial


@pytest.mark.parametrize("spatial", ("uniform", "random"))
def test_each_kept_frame_keeps_its_newline(spatial: str) -> None:
    kept = kept_of(zeros_repository(40), spatial)
    assert kept.shape == (10 * 17,) and (kept.diff() > 0).all()
    assert (kept.view(10, 17)[:, -1] % 65 == 64).all()
    assert (kept.view(10, 17)[:, :-1] % 65 < 64).all()


def test_spatial_none_keeps_all_tokens_of_a_frame() -> None:
    kept = kept_of(zeros_repository(40), "none")
    assert kept.shape == (10 * 65,)
    assert torch.equal(kept.view(10, 65) % 65, torch.arange(65).expand(10, -1))


def test_forgetting_without_generator_follows_the_evaluation_setting() -> None:
    repository = zeros_repository(40)
    config = MemAugConfig(spatial_forgetting="none", eval_spatial_forgetting="random")
    (kept,), (again,) = (choose_kept_tokens(repository, QUESTION, config, None) for _ in range(2))
    assert torch.equal(kept, again)
    assert torch.equal(kept, kept_of(repository, "random", seed=0))


def directions(*angles: float) -> MemoryRepository:
    """Return a video with one token per frame: a unit vector of the plane."""
    radians = torch.tensor(angles)
    tokens = torch.stack([radians.cos(), radians.sin()], dim=-1)[:, None]  # (frames, 1, 2)
    return build_video_repository(
        tokens, torch.zeros(2), torch.arange(len(angles)).float(), min_frames=1
    )


def frames_of(
    repository: MemoryRepository, temporal: str, question: Tensor, **settings: float
) -> list[int]:
    config = MemAugConfig(
        spatial_forgetting="none",
        temporal_forgetting=temporal,  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
    )
    (kept,) = choose_kept_tokens(repository, question, config, seeded(0))
    return (kept[::2] // 2).tolist()


def test_keyframes_are_the_least_similar_to_their_neighbors() -> None:
    video = directions(0, 0, 0, 1.2, 0, 0, 0, 0, 0, -1.5, 0, 0)
    assert frames_of(video, "keyframe", QUESTION, temporal_keep_ratio=1 / 6) == [3, 9]
    assert frames_of(directions(1.0), "keyframe", QUESTION) == [0]


def test_question_frames_are_the_most_similar_to_the_question() -> None:
    video = directions(0.0, 0.3, 2.0, 3.0, 1.0, 0.1, 1.55, 2.5)
    up = torch.tensor([[0.0, 9.0], [0.0, 1.0]])
    assert frames_of(video, "question", up, temporal_keep_ratio=0.25) == [2, 6]
    right = torch.tensor([[5.0, 0.0]])
    assert frames_of(video, "question", right, temporal_keep_ratio=0.25) == [0, 5]


def test_temporal_none_keeps_all_frames_despite_the_maximum() -> None:
    video = directions(*range(9))
    assert frames_of(video, "none", QUESTION, max_kept_frames=3) == list(range(9))


@pytest.mark.parametrize("temporal", ("uniform", "none", *CONTENT_BASED))
@pytest.mark.parametrize("spatial", SPATIAL)
def test_forgetting_methods_keep_the_same_number_in_ascending_order(
    spatial: str, temporal: str
) -> None:
    tokens = torch.randn(40, 64, 2, generator=seeded(0))
    repository = build_video_repository(
        tokens, torch.zeros(2), torch.arange(40).float(), min_frames=1
    )
    config = MemAugConfig(temporal_forgetting=temporal)  # type: ignore[arg-type]
    kept = kept_of(repository, spatial, config)
    assert len(kept) == (40 if temporal == "none" else 10) * ((64 if spatial == "none" else 16) + 1)
    assert (kept.diff() > 0).all() and torch.equal(kept, kept_of(repository, spatial, config))


def test_settings_list_every_forgetting_method() -> None:
    hints = get_type_hints(MemAugConfig)
    for name in ("spatial_forgetting", "eval_spatial_forgetting"):
        assert set(get_args(hints[name])) == set(SPATIAL)
    assert set(get_args(hints["temporal_forgetting"])) == {"uniform", "none", *CONTENT_BASED}
