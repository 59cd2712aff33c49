"""Several texts about one memory pass through MemAug together, as if one by one.

The last block computes only their visual tokens, as if all were computed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_hour.model import memaug as memaug_module
from lit_hour.model.attention_maps import capture_attention
from lit_hour.model.memaug import MemAugQuery, MemoryAugmentation
from lit_hour.model.memory_repository import MemoryRepository, build_video_repository

DIM, NUM_FRAMES = 64, 7
FLOAT32, FLOAT64 = 1e-6, 1e-13  # relative, by the norm
MEMORY_OF_TEXT = (2, 0, 2, 2, 0)  # memory 1 has no text
LENGTHS = (9, 5, 17, 1, 12)
NUM_VISUAL = ((4, 2), (5,), (1,), (1,), (2, 3))  # tokens at each placeholder, when mixed with text


def build_memaug(use_full_memory: bool, dtype: torch.dtype) -> MemoryAugmentation:
    torch.manual_seed(0)
    return MemoryAugmentation(DIM, 4, 2, 2, 1e4, DIM**-0.5, use_full_memory).to(dtype)


def inputs(dtype: torch.dtype) -> tuple[list[MemAugQuery], list[MemoryRepository]]:
    torch.manual_seed(1)
    repositories = [
        build_video_repository(
            torch.randn(NUM_FRAMES + index, 4, DIM, dtype=dtype).requires_grad_(),
            torch.zeros(DIM, dtype=dtype),
            torch.arange(NUM_FRAMES + index),
            1,
        )
        for index in range(3)
    ]
    queries = [
        MemAugQuery(
            torch.randn(length, DIM, dtype=dtype).requires_grad_(),
            torch.randint(0, 99, (length,)),
            torch.ones(length, dtype=torch.bool),
            [length],
        )
        for length in LENGTHS
    ]
    return queries, repositories


def mixed_with_text(queries: list[MemAugQuery]) -> list[MemAugQuery]:
    """Let some tokens of each query, the first among them if possible, belong to a question."""
    mixed = []
    for query, num_visual in zip(queries, NUM_VISUAL, strict=True):
        is_visual = torch.zeros(len(query.tokens), dtype=torch.bool)
        is_visual[-sum(num_visual) - 1 : -1] = True
        is_visual[-1] = is_visual.sum() < sum(num_visual)  # where the text has no others
        mixed.append(replace(query, is_visual=is_visual, num_visual_tokens=[*num_visual]))
    return mixed


def together(
    memaug: MemoryAugmentation, queries: list[MemAugQuery], memories: list[MemoryRepository]
) -> list[Tensor]:
    return memaug(queries, memories, MEMORY_OF_TEXT)


def one_by_one(
    memaug: MemoryAugmentation, queries: list[MemAugQuery], memories: list[MemoryRepository]
) -> list[Tensor]:
    pairs = zip(queries, MEMORY_OF_TEXT, strict=True)
    return [memaug([query], [memories[index]], [0])[0] for query, index in pairs]


def only_visual(
    memaug: MemoryAugmentation, queries: list[MemAugQuery], memories: list[MemoryRepository]
) -> list[Tensor]:
    return together(memaug, mixed_with_text(queries), memories)


def all_then_visual(
    memaug: MemoryAugmentation, queries: list[MemAugQuery], memories: list[MemoryRepository]
) -> list[Tensor]:
    """Compute all tokens, as if all were visual, and drop the tokens of the questions."""
    outputs = together(memaug, queries, memories)
    pairs = zip(outputs, mixed_with_text(queries), strict=True)
    return [output[query.is_visual] for output, query in pairs]


def learn(
    augment: Callable[..., list[Tensor]], memaug: MemoryAugmentation, dtype: torch.dtype
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the outputs, and the gradients of the weights, the queries and the used memories."""
    queries, memories = inputs(dtype)
    tokens = {f"memory {index}": memories[index].tokens for index in set(MEMORY_OF_TEXT)}
    for memory in tokens.values():
        memory.retain_grad()
    outputs = augment(memaug, queries, memories)
    torch.manual_seed(2)
    torch.cat(outputs).mul(torch.randn(sum(map(len, outputs)), DIM, dtype=dtype)).sum().backward()
    tensors = dict(memaug.named_parameters()) | tokens
    tensors |= {f"query {index}": query.tokens for index, query in enumerate(queries)}
    gradients = {name: one.grad for name, one in tensors.items() if one.grad is not None}
    memaug.zero_grad()
    return [output.detach() for output in outputs], gradients


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), ((torch.float32, FLOAT32), (torch.double, FLOAT64))
)
@pytest.mark.parametrize("is_training", (True, False), ids=("training", "checkpointed"))
@pytest.mark.parametrize("use_full_memory", (True, False), ids=("memory", "no memory"))
@pytest.mark.parametrize("chunk", (16_384, 10), ids=("one chunk", "chunks"))
def test_texts_together_equal_texts_one_by_one(
    dtype: torch.dtype,
    tolerance: float,
    is_training: bool,
    use_full_memory: bool,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memaug = build_memaug(use_full_memory, dtype).train(is_training)
    expected, expected_gradients = learn(one_by_one, memaug, dtype)
    monkeypatch.setattr(memaug_module, "FEED_FORWARD_CHUNK", chunk)
    found, gradients = learn(together, memaug, dtype)
    assert max(map(distance, found, expected)) < tolerance
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) >= len(list(memaug.parameters())) + len(LENGTHS)
    scale = max(float(gradient.norm()) for gradient in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        assert float((gradients[name] - gradient).norm()) < tolerance * scale


@pytest.mark.parametrize(
    ("dtype", "tolerance"), ((torch.float32, FLOAT32), (torch.double, FLOAT64))
)
@pytest.mark.parametrize("is_training", (True, False), ids=("training", "checkpointed"))
@pytest.mark.parametrize("use_full_memory", (True, False), ids=("memory", "no memory"))
def test_visual_tokens_alone_equal_the_complete_computation(
    dtype: torch.dtype, tolerance: float, is_training: bool, use_full_memory: bool
) -> None:
    memaug = build_memaug(use_full_memory, dtype).train(is_training)
    expected, expected_gradients = learn(all_then_visual, memaug, dtype)
    found, gradients = learn(only_visual, memaug, dtype)
    assert [len(tokens) for tokens in found] == list(map(sum, NUM_VISUAL))
    assert max(map(distance, found, expected)) < tolerance
    assert gradients.keys() == expected_gradients.keys()
    scale = max(float(gradient.norm()) for gradient in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        assert float((gradients[name] - gradient).norm()) < tolerance * scale
        assert gradient.any() or name.endswith("key.bias")  # the softmax cancels it


def test_last_block_computes_only_keys_and_values_of_the_question() -> None:
    memaug = build_memaug(True, torch.float32)
    rows: Counter[str] = Counter()
    for name, layer in memaug.named_modules():
        if isinstance(layer, (nn.Linear, nn.LayerNorm)):
            layer.register_forward_hook(
                lambda *call, name=name: rows.update({name: len(call[2])})  # type: ignore[misc]
            )
    queries, memories = inputs(torch.float32)
    with torch.no_grad():
        only_visual(memaug, queries, memories)
    num_query, num_visual = sum(LENGTHS), sum(map(sum, NUM_VISUAL))
    num_memory = sum(len(memories[index].positions) for index in set(MEMORY_OF_TEXT))
    for name, num_rows in rows.items():
        _, block, layer = name.split(".", 2)
        if layer in ("cross_attention.key", "cross_attention.value"):
            expected = num_memory
        elif block == "0" or layer in ("self_attention.key", "self_attention.value"):
            expected = num_query
        else:
            expected = num_visual
        assert num_rows == expected, name
    assert len(rows) == 2 * (4 + 4 + 2 + 3)


def test_without_blocks_the_visual_tokens_are_returned_unchanged() -> None:
    memaug = MemoryAugmentation(DIM, 4, 2, 0, 1e4)
    queries, memories = inputs(torch.float32)
    queries = mixed_with_text(queries)
    for query, found in zip(queries, together(memaug, queries, memories), strict=True):
        assert torch.equal(found, query.tokens[query.is_visual])


def test_kv_caches_give_texts_the_same_bit_for_bit() -> None:
    memaug = build_memaug(True, torch.float32)
    queries, memories = inputs(torch.float32)
    cached = [
        replace(one, kv_caches=memaug.build_kv_caches(one.memory, one.positions, torch.float32))
        for one in memories
    ]
    with torch.no_grad():
        expected, found = together(memaug, queries, memories), together(memaug, queries, cached)
    assert all(map(torch.equal, found, expected))


def test_layers_are_called_once_for_all_texts_of_a_memory() -> None:
    memaug = build_memaug(True, torch.float32)
    calls: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))  # type: ignore[misc]
        for name, layer in memaug.named_modules()
        if isinstance(layer, (nn.Linear, nn.LayerNorm))
    ]
    with torch.no_grad():
        together(memaug, *inputs(torch.float32))
    for hook in hooks:
        hook.remove()
    num_memories = len(set(MEMORY_OF_TEXT))
    assert {calls.count(name) for name in calls} == {num_memories}
    assert len(set(calls)) == 2 * (4 + 4 + 2 + 3)  # of two blocks


@pytest.mark.parametrize("use_full_memory", (True, False), ids=("memory", "no memory"))
def test_attention_is_captured_for_each_text(use_full_memory: bool) -> None:
    memaug = build_memaug(use_full_memory, torch.float32)
    queries, memories = inputs(torch.float32)
    queries = mixed_with_text(queries)
    with torch.no_grad(), capture_attention(memaug) as captured:
        together(memaug, queries, memories)
        num = len(captured)
        for text in (0, 2, 3, 1, 4):  # by memory, in the order of its first text
            memaug([queries[text]], [memories[MEMORY_OF_TEXT[text]]], [0])
    assert num == 2 * len(queries)
    for index in range(len(queries)):
        for block in range(2):
            alone = captured[num + 2 * index + block]
            torch.testing.assert_close(captured[block * len(queries) + index], alone)
