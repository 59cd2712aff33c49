"""Direct preference optimization: the chosen answer of a pair becomes likelier than the rejected.

Source: Rafailov et al., arXiv:2305.18290; equal to the sigmoid loss of TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import format_answer
from lit_hour.training.objectives.answer_log_probs import (
    build_prompts,
    compute_log_probs,
    encode_frames_once,
)
from lit_hour.training.objectives.reference import ReferenceModel
from lit_hour.training.objectives.step import Answer, ObjectiveOutput, StepInputs, metric_table
from lit_hour.types import Question


def dpo_losses(
    log_probs: Tensor, reference: Tensor, beta: float, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute the loss of each preference pair.

    Args:
        log_probs: of the chosen and the rejected answer by the model, `(pairs, 2)`.
        reference: the same by the reference model.
        beta: weight of the KL divergence from the reference model.
        label_smoothing: assumed share of pairs whose answers are swapped.

    Returns:
        The losses `(pairs,)`, and the implicit rewards of the two answers `(pairs, 2)`.
    """
    rewards = beta * (log_probs - reference)  # (pairs, 2)
    margin = rewards[:, 0] - rewards[:, 1]  # (pairs,)
    losses = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(
        -margin
    )  # (pairs,)
    return losses, rewards.detach()


class DPO:
    """The loss of preference pairs, and the implicit rewards of their answers.

    Of a conversation the first question counts. The video is encoded once for both answers.
    """

    metric_names: tuple[str, ...] = (
        "dpo_loss",
        "reward_margin",
        "reward_accuracy",
        "chosen_reward",
        "rejected_reward",
    )
    monitor = ("val/dpo_loss", "min")

    def __init__(self, config: Config) -> None:
        self._settings, self._mcq_format = config.training.dpo, config.text.mcq_format
        self._reference = ReferenceModel()

    def training_output(self, model: HourLLaVA, step: StepInputs) -> ObjectiveOutput:
        """Compute the mean over the pairs.

        Raises:
            QuestionError: a question has no rejected answer.
        """
        for questions in step.batch.questions:
            if questions and not questions[0].rejected:
                raise QuestionError(
                    f"Question {questions[0].id!r} of {' or '.join(step.batch.keys)} has no"
                    " rejected answer, which training.objective=dpo needs. Pack records with"
                    " prompt, chosen and rejected, or set training.objective=next_token."
                )
        return self._compute(model, step)

    def validation_metrics(
        self, model: HourLLaVA, step: StepInputs, inputs: LLMInputs, answers: Sequence[Answer]
    ) -> Tensor:
        """Compute the metrics of the pairs of a validation batch, `(metrics, 2)`."""
        return self._compute(model, step, inputs).metrics

    def check_validation(self, metrics: Mapping[str, Tensor]) -> None:
        """Check that the validation questions include preference pairs.

        Raises:
            QuestionError: they do not.
        """
        if self.metric_names[0] not in metrics:
            raise QuestionError(
                "No validation question has a rejected answer, and training.objective=dpo chooses"
                " the best checkpoint by its loss on pairs. Pack pairs for data.val_sources, or"
                " remove it."
            )

    def _compute(
        self, model: HourLLaVA, step: StepInputs, prompts: LLMInputs | None = None
    ) -> ObjectiveOutput:
        batch = encode_frames_once(model, step.batch)
        if prompts is None:
            prompts = build_prompts(model, batch, step.draw())
        processor = step.get_processor()
        pairs = [
            _tokenize_pair(questions, processor, self._mcq_format, prompts.labels.device)
            for questions in batch.questions
        ]
        log_probs, inputs = compute_log_probs(model, prompts, pairs)

        def reference_log_probs() -> Tensor:
            shared = self._reference.shares_prompts
            own = prompts if shared else build_prompts(model, batch, step.draw())
            return compute_log_probs(model, own, pairs)[0].of_answers  # (answers,)

        reference = self._reference.run(model, reference_log_probs)  # (answers,)
        losses, rewards = dpo_losses(
            log_probs.of_answers.unflatten(0, (-1, 2)),  # (pairs, 2)
            reference.unflatten(0, (-1, 2)),
            self._settings.beta,
            self._settings.label_smoothing,
        )
        is_pair = torch.tensor([len(pair[0]) > 0 for pair in pairs], device=losses.device)
        num_pairs = is_pair.sum()  # ()
        margins = (rewards[:, 0] - rewards[:, 1])[is_pair]  # (pairs,)
        values = {
            "dpo_loss": losses[is_pair],
            "reward_margin": margins,
            "reward_accuracy": margins > 0,
            "chosen_reward": rewards[is_pair, 0],
            "rejected_reward": rewards[is_pair, 1],
        }
        loss = (losses * is_pair).sum() / num_pairs.clamp(min=1)  # ()
        metrics = metric_table(self.metric_names, values, losses.device)  # (metrics, 2)
        return ObjectiveOutput(loss, num_pairs, inputs, metrics)

    def start(self, model: HourLLaVA) -> None:
        """Copy the weights of the reference model."""
        self._reference.start(model)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the reference model."""
        return {"reference": self._reference.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the reference model."""
        self._reference.load_state_dict(state.get("reference", {}))


def _tokenize_pair(
    questions: Sequence[Question], processor: HourLLaVAProcessor, mcq_format: Any, device: Any
) -> list[Tensor]:
    """Return the ids `(tokens,)` of the chosen and the rejected answer; none without a pair."""
    if not questions or not questions[0].rejected:
        return [torch.zeros(0, dtype=torch.int64, device=device)] * 2
    question = questions[0]
    texts = (question.answer, question.rejected)
    return [
        processor.answer_ids(format_answer(question, text, mcq_format)).to(device) for text in texts
    ]
