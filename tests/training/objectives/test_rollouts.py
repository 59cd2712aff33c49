"""Sampled answers depend on seed, step and position; groups are kept for the steps of one group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from lit_hour.training.objectives.rollouts import (
    AnswerGroup,
    GroupSampler,
    GroupStore,
    sampling_generators,
    text_names,
)
from lit_hour.types import Batch

NUM_TOKENS = 30  # of the tokenizer; the embedding has five rows more


def test_texts_are_named_by_position_and_number() -> None:
    ids = torch.zeros(3, 1, dtype=torch.int64)  # (texts, tokens)
    batch = Batch(("a", "b"), (None, None), (0, 0, 1), ids, ids, ids, ids, ((), (), ()), (4, 9))
    assert text_names(batch) == ["4 0", "4 1", "9 0"]


def test_answers_depend_on_seed_step_and_position_alone() -> None:
    """Not on the other texts of the batch."""
    names = ["4 0", "4 1", "9 0"]
    logits = torch.randn(3, NUM_TOKENS + 5, generator=Generator().manual_seed(0))

    def draw(rows: Sequence[int], seed: int = 0, step: int = 0) -> list[list[list[int]]]:
        generators = sampling_generators([names[row] for row in rows], seed, step)
        sampler = GroupSampler(generators, 8, NUM_TOKENS, 1.0)
        repeated = logits[list(rows)].repeat_interleave(8, dim=0)  # (answers, vocabulary)
        tokens = torch.stack([sampler(repeated) for _ in range(4)], dim=1)  # (answers, tokens)
        return [group.tolist() for group in tokens.split(8)]

    together = draw([0, 1, 2])
    assert [draw([row])[0] for row in range(3)] == together == draw([0, 1, 2])
    assert draw([2, 0]) == [together[2], together[0]]
    assert draw([0], seed=1)[0] != together[0] != draw([0], step=1)[0]
    assert max(token for group in together for answer in group for token in answer) < NUM_TOKENS


def test_temperature_sharpens_the_samples() -> None:
    logits = torch.tensor([[0.0, 1.0]]).repeat(200, 1)  # (answers, vocabulary)
    shares = [
        float(
            GroupSampler(sampling_generators(["0 0"], 0, 0), 200, 2, temperature)(logits)
            .float()
            .mean()
        )
        for temperature in (0.1, 1.0)
    ]
    assert shares[0] == 1 and 0.6 < shares[1] < 0.85  # 1 / (1 + exp(-1)) = 0.73


def test_store_keeps_the_groups_of_one_step() -> None:
    store, restored = GroupStore(), GroupStore()
    store.load_state_dict({})
    store.begin(3)
    assert store.get("0 0") is None and store.state_dict() == {"step": 3, "groups": {}}
    ids = torch.ones(2, 4, dtype=torch.int64)  # (answers, tokens)
    group = AnswerGroup(ids, torch.tensor([4, 2]), torch.zeros(2, 5), torch.zeros(2, 4))
    store.add("0 0", group)
    restored.load_state_dict(store.state_dict())
    restored.begin(3)
    found = restored.get("0 0")
    assert found is not None and [len(answer) for answer in found.answers()] == [4, 2]
    restored.begin(4)
    assert restored.get("0 0") is None
