import math

import torch
from torch import Tensor

from lit_hour.model.attention import GroupedQueryAttention, RotaryEmbedding, apply_rotary

LAST_POSITION = 3600 * 65 - 1  # of an hour at one frame a second


def attend_by_hand(
    attention: GroupedQueryAttention,
    asking: Tensor,
    asked: Tensor,
    positions: tuple[Tensor, Tensor],
) -> Tensor:
    """Softmax attention one head at a time, in double precision."""
    angles, width = RotaryEmbedding(attention.head_dim, 100.0), attention.head_dim
    query = apply_rotary(
        attention.query(asking).unflatten(-1, (-1, width)), angles(positions[0], torch.float64)
    )  # (query, heads, width)
    key = apply_rotary(
        attention.key(asked).unflatten(-1, (-1, width)), angles(positions[1], torch.float64)
    )  # (memory, groups, width)
    value = attention.value(asked).unflatten(-1, (-1, width))  # (memory, groups, width)
    heads_per_group = query.shape[1] // key.shape[1]
    seen = []
    for head in range(query.shape[1]):
        group = head // heads_per_group
        weights = torch.softmax(
            query[:, head] @ key[:, group].T / math.sqrt(width), dim=-1
        )  # (query, memory)
        seen.append(weights @ value[:, group])  # (query, width)
    return attention.output(torch.cat(seen, dim=-1))


def test_groups_of_query_heads_share_a_key_and_value_head() -> None:
    torch.manual_seed(0)
    attention = GroupedQueryAttention(dim=48, num_heads=6, num_key_value_heads=2).double()
    asking, asked = torch.randn(5, 48).double(), torch.randn(11, 48).double()
    positions = torch.randint(0, 500, (5,)), torch.randint(0, 500, (11,))
    angles = RotaryEmbedding(8, 100.0)
    seen = attention(asking, asked, *(angles(each, torch.float64) for each in positions))
    torch.testing.assert_close(seen, attend_by_hand(attention, asking, asked, positions))


def test_the_first_half_of_a_head_turns_and_the_second_stays() -> None:
    heads = torch.randn(3, 2, 16)
    turned = apply_rotary(
        heads, RotaryEmbedding(16, 10_000.0)(torch.tensor([0, 1, 70_000]), torch.float32)
    )
    assert torch.equal(turned[0], heads[0])
    assert torch.equal(turned[..., 8:], heads[..., 8:])
    assert (turned[1:, :, :4] != heads[1:, :, :4]).all()
    pairs = (
        heads[..., :8].unflatten(-1, (2, 4)).norm(dim=-2),
        turned[..., :8].unflatten(-1, (2, 4)).norm(dim=-2),
    )
    torch.testing.assert_close(*pairs)


def test_only_the_distance_between_two_tokens_matters() -> None:
    query, key = torch.randn(2, 1, 1, 16).double()
    angles = RotaryEmbedding(16, 10_000.0)

    def score(query_position: int, key_position: int) -> float:
        places = [
            angles(torch.tensor([place]), torch.float64) for place in (query_position, key_position)
        ]
        return float((apply_rotary(query, places[0]) * apply_rotary(key, places[1])).sum())

    assert math.isclose(score(7, 3), score(1007, 1003), abs_tol=1e-3)
    assert not math.isclose(score(7, 3), score(8, 3), abs_tol=1e-2)


def test_angles_stay_exact_at_the_end_of_an_hour_in_half_precision() -> None:
    positions = torch.tensor([LAST_POSITION - 1, LAST_POSITION])
    angles = RotaryEmbedding(128, 1_000_000.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine, sine = angles(positions, torch.bfloat16)
    exact = positions[:, None] / 1_000_000.0 ** (
        torch.arange(0, 64, 2).double() / 64
    )  # (tokens, 32)
    assert cosine.dtype == sine.dtype == torch.bfloat16
    torch.testing.assert_close(
        cosine.double(), exact.cos(), atol=0.02, rtol=0
    )  # bf16 rounds one to within 0.004
    torch.testing.assert_close(sine.double(), exact.sin(), atol=0.02, rtol=0)
    assert not torch.equal(cosine[0], cosine[1])


def test_a_look_is_what_the_values_are_weighted_by() -> None:
    """Each token asked has a value of its own channel, so that the output shows the weights."""
    torch.manual_seed(0)
    attention = GroupedQueryAttention(dim=32, num_heads=4, num_key_value_heads=2).double()
    asking, asked = torch.randn(70, 32).double(), torch.eye(8, 32).double() * 3
    with torch.no_grad():
        attention.value.weight.copy_(torch.eye(16, 32) / 3 + torch.eye(16, 32).roll(8, dims=0) / 3)
        attention.value.bias.zero_()
    angles = [
        RotaryEmbedding(8, 100.0)(torch.arange(len(tokens)) * 3, torch.float64)
        for tokens in (asking, asked)
    ]
    seen = []
    hook = attention.output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    attention(asking, asked, *angles)
    hook.remove()
    weights = (
        seen[0].unflatten(-1, (4, 8)).mean(dim=(0, 1))
    )  # (memory,): the first eight channels of each value head
    torch.testing.assert_close(
        attention.attention_weights(asking, asked, *angles).double(), weights, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        attention.attention_weights(asking, asked, *angles).sum(), torch.tensor(1.0)
    )
