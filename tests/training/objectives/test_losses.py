"""The losses of DPO and GRPO equal their definitions, and what TRL has computed.

`tests/golden/trl_losses.json` has random logits and what TRL 1.16.0 made of them.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_hour.training.objectives.dpo import dpo_losses
from lit_hour.training.objectives.grpo import group_advantages, grpo_losses
from tests import REPOSITORY

TOLERANCE = {"rel": 1e-6, "abs": 1e-6}
RECORDED: dict[str, Any] = json.loads(
    (REPOSITORY / "tests/golden/trl_losses.json").read_text(encoding="utf-8")
)
MASK = torch.arange(6) < torch.tensor(RECORDED["lengths"])[:, None]  # (answers, tokens)


def token_log_probs(logits: Tensor) -> Tensor:
    """Return the log-probabilities of the recorded answers' tokens, zero in the padding."""
    first = RECORDED["prompt"]
    ids = torch.tensor(RECORDED["ids"])[:, first:]  # (answers, tokens)
    log_probs = logits[:, first - 1 : -1].log_softmax(dim=-1)  # (answers, tokens, vocabulary)
    return log_probs.gather(2, ids[..., None])[..., 0] * MASK  # (answers, tokens)


def recorded_logits(name: str, requires_grad: bool = False) -> Tensor:
    return torch.tensor(RECORDED[name], requires_grad=requires_grad)


def test_recording_is_of_the_stated_version() -> None:
    assert RECORDED["trl"] == "1.16.0"
    assert len(RECORDED["dpo"]) == 2 and len(RECORDED["grpo"]) == 6


@pytest.mark.parametrize("recorded", RECORDED["dpo"], ids=lambda one: f"beta={one['beta']}")
def test_dpo_equals_trl(recorded: dict[str, float]) -> None:
    """TRL has the chosen answers first, then the rejected ones."""
    logits = recorded_logits("logits", requires_grad=True)
    of_answers = token_log_probs(logits).sum(dim=1).unflatten(0, (2, -1)).T  # (pairs, 2)
    reference = token_log_probs(recorded_logits("reference_logits")).sum(dim=1)  # (answers,)
    losses, rewards = dpo_losses(of_answers, reference.unflatten(0, (2, -1)).T, recorded["beta"])
    margins = rewards[:, 0] - rewards[:, 1]  # (pairs,)
    losses.mean().backward()
    assert logits.grad is not None
    assert float(losses.detach().mean()) == pytest.approx(recorded["loss"], **TOLERANCE)
    assert float(margins.mean()) == pytest.approx(recorded["margin"], **TOLERANCE)
    assert float((margins > 0).float().mean()) == recorded["accuracy"]
    assert float(rewards[:, 0].mean()) == pytest.approx(recorded["chosen_reward"], **TOLERANCE)
    gradient = float(logits.grad.abs().sum())
    assert gradient == pytest.approx(recorded["gradient_sum_abs"], **TOLERANCE)


@pytest.mark.parametrize("recorded", RECORDED["grpo"], ids=str)
def test_grpo_equals_trl(recorded: dict[str, Any]) -> None:
    logits = recorded_logits("logits", requires_grad=True)
    rewards = torch.tensor([recorded["rewards"]])  # (groups, answers)
    (advantages,) = group_advantages(rewards, recorded["scale_by_deviation"])
    torch.testing.assert_close(advantages, torch.tensor(recorded["advantages"]))
    losses, _, _ = grpo_losses(
        token_log_probs(logits),
        token_log_probs(recorded_logits("old_logits")),
        advantages,
        MASK,
        recorded["clip_epsilon"],
        token_log_probs(recorded_logits("reference_logits"))
        if recorded["kl_coefficient"]
        else None,
        recorded["kl_coefficient"],
    )
    losses.mean().backward()
    assert logits.grad is not None
    assert float(losses.detach().mean()) == pytest.approx(recorded["loss"], **TOLERANCE)
    gradient = float(logits.grad.abs().sum())
    assert gradient == pytest.approx(recorded["gradient_sum_abs"], **TOLERANCE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_the_definition(smoothing: float) -> None:
    log_probs, reference = torch.randn(2, 5, 2, dtype=torch.float64)  # (pairs, 2) each
    losses, _ = dpo_losses(log_probs, reference, 0.3, smoothing)
    for index, ((chosen, rejected), (old, other)) in enumerate(
        zip(log_probs.tolist(), reference.tolist(), strict=True)
    ):
        share = 1 / (1 + math.exp(-0.3 * (chosen - old - rejected + other)))
        expected = -(1 - smoothing) * math.log(share) - smoothing * math.log(1 - share)
        assert float(losses[index]) == pytest.approx(expected, abs=1e-12)


def test_grpo_is_the_definition() -> None:
    """Each sign of the advantage is clipped on its own side alone."""
    log_probs, old, reference = torch.randn(3, 4, 6, dtype=torch.float64) / 4
    advantages = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    losses, kl, is_clipped = grpo_losses(log_probs, old, advantages, MASK, 0.1, reference, 0.2)
    clipped = 0
    for answer, length in enumerate(RECORDED["lengths"]):
        total = 0.0
        for token in range(length):
            now = float(log_probs[answer, token])
            ratio = math.exp(now - float(old[answer, token]))
            advantage = float(advantages[answer])
            bounded = min(max(ratio, 0.9), 1.1)
            difference = float(reference[answer, token]) - now
            divergence = math.exp(difference) - difference - 1
            total += 0.2 * divergence - min(ratio * advantage, bounded * advantage)
            assert float(kl[answer, token]) == pytest.approx(divergence, abs=1e-12)
            is_bounded = bounded * advantage < ratio * advantage
            assert bool(is_clipped[answer, token]) == is_bounded
            clipped += is_bounded
        assert float(losses[answer]) == pytest.approx(total / length, abs=1e-12)
        assert not kl[answer, length:].any() and not is_clipped[answer, length:].any()
    assert 0 < clipped < int(MASK.sum())


def test_equal_rewards_have_no_advantage() -> None:
    rewards = torch.tensor([[0.3, 0.3, 0.3], [0.0, 0.0, 1.0]])
    advantages = group_advantages(rewards)
    assert advantages[0].abs().max() < 1e-3 and advantages[1, 2] > 1
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(2))
