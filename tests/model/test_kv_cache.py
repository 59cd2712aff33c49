"""Repositories with and without KV caches give the same inputs bit for bit."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import Linear

from lit_hour.model.attention_maps import capture_attention
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import ImageSet, TiledImage, Visual
from tests.model.toy_model import CONFIG, LEFT, RED, batch_of, frames, sample, toy_model

IMAGES = torch.randint(
    0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
VISUALS = {
    "video": frames(12),
    "short video": frames(3),
    "tiled image": TiledImage(IMAGES, (2, 2), (100, 128)),
    "images": ImageSet(IMAGES[:2]),
    "none": None,
}


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return toy_model()


@pytest.mark.parametrize("autocast", (False, True), ids=("single", "mixed"))
@pytest.mark.parametrize("visual", VISUALS.values(), ids=VISUALS)
def test_inputs_are_equal_with_and_without_kv_cache(
    model: HourLLaVA, visual: Visual | None, autocast: bool
) -> None:
    batch = batch_of(sample(visual, (RED,), (LEFT,)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        (plain,) = model.build_repositories(batch.visuals)
        cached = model.with_kv_cache(plain)
        with capture_attention(model.memaug) as weights:
            expected = model.build_inputs(batch, [plain])
            found = model.build_inputs(batch, [cached])
    assert torch.equal(found.embeddings, expected.embeddings)
    num_weights = 2 * CONFIG.model.memaug.num_layers  # of two texts
    assert len(weights) == 2 * num_weights
    for before, after in zip(weights[:num_weights], weights[num_weights:], strict=True):
        assert torch.equal(before, after)


def test_question_does_not_project_a_cached_repository(model: HourLLaVA) -> None:
    batch = batch_of(sample(frames(60), (RED,)))
    attentions = [block.cross_attention for block in model.memaug.blocks]
    layers: list[Linear] = [layer for one in attentions for layer in (one.key, one.value)]  # type: ignore[union-attr, misc]
    projected: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, args, __: projected.append(len(args[0])))
        for layer in layers
    ]
    with torch.no_grad():
        (plain,) = model.build_repositories(batch.visuals)
        model.build_inputs(batch, [plain])
        assert projected == [len(plain.tokens)] * len(layers)
        cached = model.with_kv_cache(plain)
        projected.clear()
        model.build_inputs(batch, [cached])
    for hook in hooks:
        hook.remove()
    assert projected == []
