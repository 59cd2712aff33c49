"""The lazy repository of a video against the dense one: forward and gradients."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lit_hour.config.model import MemAugConfig
from lit_hour.model import memory_repository
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import GroupedQueryAttention, Rotary
from lit_hour.model.memory_repository import (
    DenseTokens,
    KVCache,
    LazyTokens,
    MemoryTokens,
    build_video_repository,
)
from lit_hour.model.vision_encoder import Projector
from lit_hour.types import Batch, Features, ImageSet, TiledImage, Visual
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

IMAGES = torch.randint(
    0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
VIDEO, SHORT = frames(12), frames(3, seed=1)
TILES, PICTURES = TiledImage(IMAGES, (2, 2), (100, 128)), ImageSet(IMAGES[:2])
FLOAT32 = 2e-5  # relative to the largest entry
FLOAT64 = 1e-12  # relative to the largest entry; only the order of operations differs
NUM_FRAMES, VISION_DIM, DIM = 20, 6, 8


def batch_with(*visuals: tuple[Visual | None, int]) -> Batch:
    """Return a batch of visuals, each with a number of texts about it."""
    conversations = [(RED,), (LEFT,), (LEFT, RED)]
    return batch_of(*(sample(visual, *conversations[:num]) for visual, num in visuals))


def gradients_of(model: HourLLaVA, batch: Batch, lazy: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the embeddings of the inputs, and the gradients of their sum with random signs."""
    model.zero_grad()
    generators = [torch.Generator().manual_seed(index) for index in range(len(batch.input_ids))]
    repositories = model.build_repositories(batch.visuals, lazy=lazy)
    embeddings = model.build_inputs(batch, repositories, generators).embeddings
    signs = (
        torch.randint(0, 2, embeddings.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    (embeddings * signs.to(embeddings.dtype)).sum().backward()
    return embeddings.detach(), {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        found, expected, atol=tolerance * float(expected.abs().max()), rtol=0
    )


@pytest.mark.parametrize("recompute_above", (12, 512))
@pytest.mark.parametrize("num_frames", (9, 16, NUM_FRAMES))
def test_lazy_tokens_equal_dense_tokens(
    num_frames: int, recompute_above: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_repository, "CHECKPOINT_FRAMES", 7)
    monkeypatch.setattr(memory_repository, "RECOMPUTE_ABOVE_FRAMES", recompute_above)
    torch.manual_seed(0)
    projector = Projector(VISION_DIM, DIM).double()
    layers = [nn.Linear(DIM, out_features).double() for out_features in (4, 6)]
    newline, features = torch.randn(DIM).double(), torch.randn(num_frames, 4, VISION_DIM).double()
    timestamps = torch.arange(num_frames)
    dense = build_video_repository(projector(features), newline, timestamps, min_frames=16)
    lazy = build_video_repository(
        features, newline, timestamps, min_frames=16, lazy_projector=projector
    )
    assert isinstance(lazy.memory, LazyTokens)
    assert torch.equal(lazy.positions, dense.positions)
    assert torch.equal(lazy.timestamps, dense.timestamps)
    assert (lazy.grids, lazy.num_frames) == (dense.grids, dense.num_frames)
    check_close(lazy.memory.gather(dense.positions), dense.tokens, FLOAT64)
    check_close(lazy.tokens, dense.tokens, FLOAT64)
    for memory in (lazy.memory, dense.memory):
        for found, layer in zip(memory.linear(*layers), layers, strict=True):
            check_close(found, layer(dense.tokens), FLOAT64)


@pytest.mark.parametrize(
    "visuals",
    (
        [(VIDEO, 1)],
        [(VIDEO, 3)],
        [(SHORT, 2)],
        [(VIDEO, 2), (PICTURES, 2), (None, 1), (TILES, 1), (SHORT, 1)],
    ),
    ids=("video", "several texts", "short video", "mixture"),
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), ((torch.float32, FLOAT32), (torch.float64, FLOAT64 * 100))
)
def test_lazy_repositories_give_equal_inputs_and_gradients(
    visuals: list[tuple[Visual | None, int]], dtype: torch.dtype, tolerance: float
) -> None:
    model, batch = toy_model().to(dtype), batch_with(*visuals)
    model.vision.requires_grad_(True)
    expected, expected_gradients = gradients_of(model, batch, lazy=False)
    found, gradients = gradients_of(model, batch, lazy=True)
    check_close(found, expected, tolerance)
    assert gradients.keys() == expected_gradients.keys()
    assert any(name.startswith("vision") for name in gradients)
    for name, gradient in expected_gradients.items():
        check_close(gradients[name], gradient, tolerance)


def test_lazy_repository_is_as_accurate_in_bfloat16_as_the_dense_one() -> None:
    batch = batch_with((VIDEO, 2))
    features = toy_model().vision.encode_images(VIDEO.images).detach()
    batch = replace(batch, visuals=(Features(features, VIDEO.timestamps),))
    exact, exact_gradients = gradients_of(toy_model().double(), batch, lazy=False)

    def errors(lazy: bool) -> list[float]:
        inputs, gradients = gradients_of(toy_model().bfloat16(), batch, lazy)
        pairs = [(inputs, exact)]
        pairs += [(gradients[name], one) for name, one in exact_gradients.items() if one.any()]
        return [float((found - expected).norm() / expected.norm()) for found, expected in pairs]

    dense, lazy = errors(lazy=False), errors(lazy=True)
    assert sum(lazy) < 1.1 * sum(dense)
    assert max(lazy) < 1.5 * max(dense)


@pytest.mark.parametrize("temporal", ("keyframe", "question"))
def test_content_based_forgetting_has_dense_tokens(temporal: str) -> None:
    memaug = MemAugConfig(num_layers=2, min_frames=8, temporal_forgetting=temporal)  # type: ignore[arg-type]
    model, batch = toy_model(config_with(memaug)), batch_with((VIDEO, 1))
    with torch.no_grad():
        (repository,) = model.build_repositories(batch.visuals, lazy=True)
        expected = model.build_inputs(batch, model.build_repositories(batch.visuals))
        assert isinstance(repository.memory, DenseTokens)
        assert torch.equal(model.build_inputs(batch, [repository]).embeddings, expected.embeddings)


@pytest.mark.parametrize("visual", (VIDEO, PICTURES), ids=("video", "images"))
def test_keys_and_values_are_projected_once_for_all_texts(
    visual: Visual, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    project_kv = GroupedQueryAttention.project_kv

    def record(self: GroupedQueryAttention, tokens: MemoryTokens, rotary: Rotary) -> KVCache:
        lengths.append(len(rotary[0]))
        return project_kv(self, tokens, rotary)

    monkeypatch.setattr(GroupedQueryAttention, "project_kv", record)
    model, batch = toy_model(), batch_with((visual, 3))
    with torch.no_grad():
        repositories = model.build_repositories(batch.visuals, lazy=True)
        model.build_inputs(batch, repositories)
    num_tokens = len(repositories[0].positions)
    assert lengths.count(num_tokens) == CONFIG.model.memaug.num_layers


def test_hidden_activations_of_a_long_video_are_recomputed_from_the_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_repository, "CHECKPOINT_FRAMES", 7)
    monkeypatch.setattr(memory_repository, "RECOMPUTE_ABOVE_FRAMES", 7)
    projector, features = Projector(VISION_DIM, DIM), torch.randn(NUM_FRAMES, 4, VISION_DIM)
    inputs = {tensor.data_ptr() for tensor in (features, *projector.parameters())}

    def saved_by(call: Callable[[], object]) -> set[int]:
        saved: set[int] = set()

        def pack(tensor: Tensor) -> Tensor:
            saved.add(tensor.untyped_storage().data_ptr())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            call()
        return saved

    newline, timestamps = torch.zeros(DIM), torch.arange(NUM_FRAMES)
    lazily = saved_by(
        lambda: build_video_repository(features, newline, timestamps, 1, lazy_projector=projector)
    )
    assert lazily <= inputs
    assert not saved_by(lambda: projector(features)) <= inputs
