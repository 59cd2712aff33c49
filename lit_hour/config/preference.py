"""Settings of preference tuning (DPO) and of reinforcement learning with rules (GRPO)."""

from __future__ import annotations

from dataclasses import dataclass

from lit_hour.config.fields import field


@dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimization on chosen and rejected answers (arXiv:2305.18290)."""

    beta: float = field(
        0.1,
        "weight of the KL divergence from the reference model: a smaller value lets the model move"
        " further away from it",
        gt=0,
    )
    label_smoothing: float = field(
        0.0, "assumed share of pairs whose answers are swapped (conservative DPO)", ge=0, le=0.5
    )


@dataclass(frozen=True)
class RewardConfig:
    """Weight of each reward function in an answer's reward; 0 leaves it out.

    `training/objectives/rewards.py` defines them. Each is in [0, 1].
    """

    right_option: float = field(1.0, "multiple choice: the answer chooses the right option", ge=0)
    exact_word: float = field(1.0, "open-ended: the answer has the words of the true one", ge=0)
    temporal_iou: float = field(
        1.0, "questions about time: IoU of the first stated interval with a true one", ge=0
    )
    format: float = field(
        0.1,
        "the answer ends by itself, and is an option, an interval or a nonempty line, as the"
        " question requires",
        ge=0,
    )


@dataclass(frozen=True)
class GRPOConfig:
    """Group relative policy optimization on sampled answers (arXiv:2402.03300)."""

    num_answers: int = field(
        8, "answers that are sampled for each question: a group", unit="answers", ge=2
    )
    temperature: float = field(
        1.0, "sampling temperature, which the log-probabilities of the loss have too", gt=0
    )
    max_new_tokens: int = field(32, "longest sampled answer", unit="tokens", ge=1)
    clip_epsilon: float = field(
        0.2,
        "the ratio of an answer token's probabilities, now and when it was sampled, counts up to 1"
        " plus this and down to 1 minus this",
        gt=0,
        le=0.999999,
    )
    kl_coefficient: float = field(
        0.04,
        "weight of the KL divergence from the reference model; 0 computes no reference, which takes"
        " less time and memory",
        ge=0,
    )
    scale_by_deviation: bool = field(
        True,
        "divide advantages by the standard deviation of their group's rewards; false subtracts the"
        " mean alone (arXiv:2503.20783)",
    )
    updates_per_group: int = field(
        1,
        "consecutive optimizer steps that learn from the same sampled answers. From the second on"
        " the ratio differs from 1 and may be clipped. Sampling is often the slowest part of a"
        " step",
        unit="steps",
        ge=1,
    )
    rewards: RewardConfig = field(RewardConfig, "weights of the reward functions")
