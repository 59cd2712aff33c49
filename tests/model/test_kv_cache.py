"""A memory that was prepared once, against one that each question reads anew: equal to the bit."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import Linear

from lit_hour.model.attention import GroupedQueryAttention
from lit_hour.model.attention_maps import capture_attention
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import ImageSet, TiledImage, Visual
from tests.model.small import CONFIG, LEFT, PROCESSOR, RED, frames, sample, small_model

IMAGES = torch.randint(
    0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
VISUALS = {
    "video": frames(12),
    "short video": frames(3),
    "picture in tiles": TiledImage(IMAGES, (2, 2), (100, 128)),
    "pictures": ImageSet(IMAGES[:2]),
    "nothing": None,
}


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return small_model()


@pytest.mark.parametrize("autocast", (False, True), ids=("single", "mixed"))
@pytest.mark.parametrize("visual", VISUALS.values(), ids=VISUALS)
def test_the_model_reads_the_same(model: HourLLaVA, visual: Visual | None, autocast: bool) -> None:
    batch = PROCESSOR.collate([PROCESSOR.build_example(sample(visual, (RED,), (LEFT,)))])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        plain = model.build_repositories(batch.visuals)[0]
        prepared = model.with_kv_cache(plain)
        with capture_attention(model.memaug) as looks:
            expected, found = (
                model.build_inputs(batch, [plain]),
                model.build_inputs(batch, [prepared]),
            )
    assert torch.equal(found.embeddings, expected.embeddings)
    assert len(looks) == 2 * 2 * CONFIG.model.memaug.num_layers  # texts, plain and prepared
    for before, after in zip(looks[: len(looks) // 2], looks[len(looks) // 2 :], strict=True):
        assert torch.equal(before, after)


def test_a_question_does_not_read_the_memory_again(model: HourLLaVA) -> None:
    batch = PROCESSOR.collate([PROCESSOR.build_example(sample(frames(60), (RED,)))])
    read: list[int] = []
    attentions: list[GroupedQueryAttention] = [
        block.cross_attention for block in model.memaug.blocks
    ]  # type: ignore[union-attr, misc]
    layers: list[Linear] = [layer for each in attentions for layer in (each.key, each.value)]
    hooks = [
        layer.register_forward_hook(lambda _, given, __: read.append(len(given[0])))
        for layer in layers
    ]
    with torch.no_grad():
        plain = model.build_repositories(batch.visuals)[0]
        model.build_inputs(batch, [plain])
        assert read == [len(plain.tokens)] * len(layers)
        prepared = model.with_kv_cache(plain)
        read.clear()
        model.build_inputs(batch, [prepared])
    for hook in hooks:
        hook.remove()
    assert read == []
