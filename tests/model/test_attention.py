import math

import torch
from torch import Tensor

from lit_hour.model.memaug import GroupedQueryAttention, apply_rotary, rotary_embedding
from lit_hour.model.memory_repository import DenseTokens

LAST_POSITION = 3600 * 65 - 1  # of an hour at one frame per second


def attend_per_head(
    attention: GroupedQueryAttention,
    query: Tensor,
    memory: Tensor,
    positions: tuple[Tensor, Tensor],
) -> Tensor:
    """Softmax attention one head at a time, in double precision."""
    width = attention.head_dim
    query_rotary, memory_rotary = (
        rotary_embedding(one, width, 100.0, torch.float64) for one in positions
    )
    heads = attention.query(query).unflatten(-1, (-1, width))  # (query, heads, width)
    heads = apply_rotary(heads, query_rotary)
    keys = attention.key(memory).unflatten(-1, (-1, width))  # (memory, groups, width)
    keys = apply_rotary(keys, memory_rotary)
    values = attention.value(memory).unflatten(-1, (-1, width))  # (memory, groups, width)
    group_size = heads.shape[1] // keys.shape[1]
    attended = []
    for head in range(heads.shape[1]):
        group = head // group_size
        scores = heads[:, head] @ keys[:, group].T / math.sqrt(width)  # (query, memory)
        attended.append(scores.softmax(dim=-1) @ values[:, group])  # (query, width)
    return attention.output(torch.cat(attended, dim=-1))


def test_grouped_query_attention_equals_attention_per_head() -> None:
    torch.manual_seed(0)
    attention = GroupedQueryAttention(dim=48, num_heads=6, num_key_value_heads=2).double()
    query, memory = torch.randn(5, 48).double(), torch.randn(11, 48).double()
    positions = torch.randint(0, 500, (5,)), torch.randint(0, 500, (11,))
    query_rotary, memory_rotary = (
        rotary_embedding(one, 8, 100.0, torch.float64) for one in positions
    )
    kv = attention.project_kv(DenseTokens(memory), memory_rotary)
    torch.testing.assert_close(
        attention(query, kv, query_rotary), attend_per_head(attention, query, memory, positions)
    )


def test_rotary_rotates_only_the_first_half_of_a_head() -> None:
    heads = torch.randn(3, 2, 16)
    rotary = rotary_embedding(torch.tensor([0, 1, 70_000]), 16, 10_000.0, torch.float32)
    rotated = apply_rotary(heads, rotary)
    assert torch.equal(rotated[0], heads[0])
    assert torch.equal(rotated[..., 8:], heads[..., 8:])
    assert (rotated[1:, :, :4] != heads[1:, :, :4]).all()
    torch.testing.assert_close(
        heads[..., :8].unflatten(-1, (2, 4)).norm(dim=-2),
        rotated[..., :8].unflatten(-1, (2, 4)).norm(dim=-2),
    )


def test_rotary_scores_depend_only_on_the_distance() -> None:
    query, key = torch.randn(2, 1, 1, 16).double()

    def score(query_position: int, key_position: int) -> float:
        query_rotary, key_rotary = (
            rotary_embedding(torch.tensor([position]), 16, 10_000.0, torch.float64)
            for position in (query_position, key_position)
        )
        return float((apply_rotary(query, query_rotary) * apply_rotary(key, key_rotary)).sum())

    assert math.isclose(score(7, 3), score(1007, 1003), abs_tol=1e-3)
    assert not math.isclose(score(7, 3), score(8, 3), abs_tol=1e-2)


def test_rotary_angles_are_exact_at_an_hour_in_half_precision() -> None:
    positions = torch.tensor([LAST_POSITION - 1, LAST_POSITION])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine, sine = rotary_embedding(positions, 128, 1_000_000.0, torch.bfloat16)
    steps = torch.arange(0, 64, 2).double() / 64  # (32,)
    exact = positions[:, None] / 1_000_000.0**steps  # (tokens, 32)
    assert cosine.dtype == sine.dtype == torch.bfloat16
    bf16_rounding = 0.02  # bf16 rounds a number near 1 to within 0.004
    torch.testing.assert_close(cosine.double(), exact.cos(), atol=bf16_rounding, rtol=0)
    torch.testing.assert_close(sine.double(), exact.sin(), atol=bf16_rounding, rtol=0)
    assert not torch.equal(cosine[0], cosine[1])


def test_attention_weights_are_the_weights_of_the_values() -> None:
    """The value of each token is one channel of its own, so the output shows the weights."""
    torch.manual_seed(0)
    attention = GroupedQueryAttention(dim=32, num_heads=4, num_key_value_heads=2).double()
    query, memory = torch.randn(70, 32).double(), torch.eye(8, 32).double() * 3
    with torch.no_grad():
        attention.value.weight.copy_(torch.eye(16, 32) / 3 + torch.eye(16, 32).roll(8, dims=0) / 3)
        attention.value.bias.zero_()
    query_rotary, memory_rotary = (
        rotary_embedding(torch.arange(len(tokens)) * 3, 8, 100.0, torch.float64)
        for tokens in (query, memory)
    )
    kv = attention.project_kv(DenseTokens(memory), memory_rotary)
    outputs: list[Tensor] = []
    hook = attention.output.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    attention(query, kv, query_rotary)
    hook.remove()
    expected = outputs[0].unflatten(-1, (4, 8)).mean(dim=(0, 1))  # (memory,)
    weights = attention.attention_weights(query, kv, query_rotary)
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
