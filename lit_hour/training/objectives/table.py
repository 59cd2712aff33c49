"""The table of objectives: what a step learns for each value of `training.objective`."""

from __future__ import annotations

from lit_hour.config.schema import Config
from lit_hour.training.objectives.dpo import DPO
from lit_hour.training.objectives.grpo import GRPO
from lit_hour.training.objectives.step import TokenLoss, TrainingObjective


def build_objective(config: Config) -> TrainingObjective:
    """Return the objective of a run."""
    match config.training.objective:
        case "dpo":
            return DPO(config)
        case "grpo":
            return GRPO(config)
        case "next_token" | "answer_words" as name:
            return TokenLoss(name)
