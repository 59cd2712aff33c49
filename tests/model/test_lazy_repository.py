"""A video's memory whose tokens are not made, against the plain one: forward and gradients."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lit_hour.config.model import MemAugConfig
from lit_hour.model import projector
from lit_hour.model.attention import GroupedQueryAttention
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import (
    LazyMemoryRepository,
    MemoryRepository,
    build_lazy_repository,
    build_video_repository,
)
from lit_hour.model.projector import Projector
from lit_hour.types import Batch, Features, ImageSet, TiledImage, Visual
from tests.model.small import CONFIG, LEFT, PROCESSOR, RED, frames, sample, small_model, with_memory

IMAGES = torch.randint(
    0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
VIDEO, SHORT = frames(12), frames(3, seed=1)
TILES, PICTURES = TiledImage(IMAGES, (2, 2), (100, 128)), ImageSet(IMAGES[:2])
FLOAT32 = 2e-5  # of the largest entry
FLOAT64 = 1e-12  # of the largest entry: the arithmetic is the same, only its order is not
NUM_ENCODED, VISION_DIM, DIM = 20, 6, 8

Remember = Callable[
    [HourLLaVA, Sequence[Visual | None]], Sequence[MemoryRepository | LazyMemoryRepository]
]


def batch_of(*asked: tuple[Visual | None, int]) -> Batch:
    """Visuals, and how many texts ask about each."""
    examples = [
        PROCESSOR.build_example(sample(visual, *([(RED,), (LEFT,), (LEFT, RED)][:count])))
        for visual, count in asked
    ]
    return PROCESSOR.collate(examples)


def learn(model: HourLLaVA, batch: Batch, remember: Remember) -> tuple[Tensor, dict[str, Tensor]]:
    """The embeddings that the language model reads, and the gradients of a sum of them with random signs."""
    model.zero_grad()
    generators = [torch.Generator().manual_seed(place) for place in range(len(batch.visuals))]
    read = model.build_inputs(
        batch, remember(model, batch.visuals), generators
    ).embeddings  # (texts, tokens, dim)
    signs = (
        torch.randint(0, 2, read.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )  # (texts, tokens, dim)
    (read * signs.to(read.dtype)).sum().backward()
    return read.detach(), {
        name: each.grad for name, each in model.named_parameters() if each.grad is not None
    }


def check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        found, expected, atol=tolerance * float(expected.abs().max()), rtol=0
    )


@pytest.mark.parametrize("num_frames", (9, 16, NUM_ENCODED))
def test_what_layers_make_of_it_is_what_they_make_of_the_tokens(
    num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "CHUNK_FRAMES", 7)
    torch.manual_seed(0)
    project = Projector(VISION_DIM, DIM).double()
    layers = [nn.Linear(DIM, outputs).double() for outputs in (4, 6)]
    end, encoded = torch.randn(DIM).double(), torch.randn(num_frames, 4, VISION_DIM).double()
    timestamps = torch.arange(num_frames)
    plain = build_video_repository(project(encoded), end, timestamps, min_frames=16)
    unmade = build_lazy_repository(encoded, project, end, timestamps, min_frames=16)
    assert torch.equal(unmade.positions, plain.positions) and torch.equal(
        unmade.timestamps, plain.timestamps
    )
    assert (unmade.grids, unmade.num_frames) == (plain.grids, plain.num_frames)
    check_close(unmade.tokens.gather(plain.positions), plain.tokens, FLOAT64)
    for found, layer in zip(unmade.tokens.linear(*layers), layers, strict=True):
        check_close(found, layer(plain.tokens), FLOAT64)


@pytest.mark.parametrize(
    "asked",
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
def test_the_model_reads_and_learns_the_same(
    asked: list[tuple[Visual | None, int]], dtype: torch.dtype, tolerance: float
) -> None:
    model, batch = small_model().to(dtype), batch_of(*asked)
    model.vision.requires_grad_(True)
    expected, wanted = learn(model, batch, HourLLaVA.build_repositories)
    found, gradients = learn(model, batch, HourLLaVA.build_lazy_repositories)
    check_close(found, expected, tolerance)
    assert gradients.keys() == wanted.keys() and any(name.startswith("vision") for name in wanted)
    for name, gradient in wanted.items():
        check_close(gradients[name], gradient, tolerance)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_plain_one() -> None:
    batch = batch_of((VIDEO, 2))
    seen = small_model().vision(VIDEO.images)  # (frames, tokens, vision_dim)
    batch = replace(batch, visuals=(Features(seen.detach(), VIDEO.timestamps),))
    (truth, exact), *rounded = (
        learn(small_model().to(dtype), batch, remember)
        for dtype, remember in (
            (torch.float64, HourLLaVA.build_repositories),
            (torch.bfloat16, HourLLaVA.build_repositories),
            (torch.bfloat16, HourLLaVA.build_lazy_repositories),
        )
    )
    plain, unmade = (
        [float((read - truth).norm() / truth.norm())]
        + [
            float((gradients[name] - exact[name]).norm() / exact[name].norm())
            for name in exact
            if exact[name].any()
        ]
        for read, gradients in rounded
    )
    assert sum(unmade) < 1.1 * sum(plain)
    assert max(unmade) < 1.5 * max(plain)


@pytest.mark.parametrize("temporal", ("keyframe", "question"))
def test_who_looks_at_all_tokens_has_them(temporal: str) -> None:
    settings = MemAugConfig(num_layers=2, min_frames=8, temporal_forgetting=temporal)  # type: ignore[arg-type]
    model, batch = small_model(with_memory(settings)), batch_of((VIDEO, 1))
    with torch.no_grad():
        (memory,) = model.build_lazy_repositories(batch.visuals)
        plain = model.build_inputs(batch, model.build_repositories(batch.visuals))
        assert isinstance(memory, MemoryRepository)
        assert torch.equal(model.build_inputs(batch, [memory]).embeddings, plain.embeddings)


@pytest.mark.parametrize("visual", (VIDEO, PICTURES), ids=("video", "pictures"))
def test_keys_and_values_are_made_once_for_all_texts(
    visual: Visual, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    prepare = GroupedQueryAttention.project_kv

    def record(self: GroupedQueryAttention, asked: Tensor, angles: tuple[Tensor, Tensor]) -> object:
        lengths.append(len(angles[0]))
        return prepare(self, asked, angles)

    monkeypatch.setattr(GroupedQueryAttention, "project_kv", record)
    model, batch = small_model(), batch_of((visual, 3))
    with torch.no_grad():
        memories = model.build_lazy_repositories(batch.visuals)
        model.build_inputs(batch, memories)
    num_tokens, num_layers = len(memories[0].positions), CONFIG.model.memaug.num_layers
    assert lengths.count(num_tokens) == num_layers


def test_of_the_hidden_layer_nothing_but_what_goes_in_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projector, "CHUNK_FRAMES", 7)
    project, encoded = Projector(VISION_DIM, DIM), torch.randn(NUM_ENCODED, 4, VISION_DIM)
    given = {tensor.untyped_storage().data_ptr() for tensor in (encoded, *project.parameters())}
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        project.hidden(encoded)
        assert kept <= given
        project(encoded)
    assert not kept <= given
