"""Group relative policy optimization: sampled answers with a high reward become more likely.

A question is answered several times; an answer's advantage is its reward relative to its group.
The memory of the video is built once for all answers of a step.

Source: Shao et al., arXiv:2402.03300; equal to TRL's loss with `loss_type="grpo"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.text.tokenizer import Tokenizer, end_of_turn_id
from lit_hour.training.objectives.answer_log_probs import (
    build_prompts,
    compute_log_probs,
    encode_frames_once,
)
from lit_hour.training.objectives.reference import ReferenceModel
from lit_hour.training.objectives.rewards import REWARDS, SCORE_NAMES, TOTAL, score_answer
from lit_hour.training.objectives.rollouts import (
    AnswerGroup,
    GroupSampler,
    GroupStore,
    sampling_generators,
    text_names,
)
from lit_hour.training.objectives.step import Answer, ObjectiveOutput, StepInputs, metric_table
from lit_hour.types import Batch, Question

DEVIATION_EPSILON = 1e-4  # as in TRL: a group of equal rewards has advantages of zero


def group_advantages(rewards: Tensor, scale_by_deviation: bool = True) -> Tensor:
    """Return the rewards `(groups, answers)` relative to their group, of the same shape."""
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_by_deviation:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + DEVIATION_EPSILON)
    return advantages


def grpo_losses(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_epsilon: float,
    reference: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss of each answer: the mean over its tokens.

    Args:
        log_probs: of the answers' tokens, `(answers, tokens)`.
        old_log_probs: of the same tokens by the model that sampled them.
        advantages: `(answers,)`.
        mask: `(answers, tokens)` bool, false in the padding.
        clip_epsilon: largest change of the ratio of probabilities that counts.
        reference: log-probabilities of the tokens by the reference model, or None.
        kl_coefficient: weight of the KL divergence from it.

    Returns:
        The losses `(answers,)`; the estimate of the KL divergence at each token, zero without a
        reference, and whether its ratio is clipped, both `(answers, tokens)`.
    """
    ratio = (log_probs - old_log_probs).exp()  # (answers, tokens)
    clipped = ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)  # (answers, tokens)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    kl = torch.zeros_like(log_probs)  # (answers, tokens)
    if reference is not None:
        difference = reference - log_probs  # (answers, tokens)
        kl = difference.exp() - difference - 1  # (answers, tokens)
    is_clipped = (clipped * advantages[:, None] < ratio * advantages[:, None]) & mask
    per_token = (kl_coefficient * kl - gain) * mask  # (answers, tokens)
    losses = per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # (answers,)
    return losses, kl.detach() * mask, is_clipped


class GRPO:
    """Samples answers, scores them by `REWARDS`, and computes the clipped loss of their tokens.

    Of a conversation the first question is answered.
    """

    metric_names: tuple[str, ...] = (TOTAL, *(f"{TOTAL}/{name}" for name in REWARDS))
    metric_names += ("reward_deviation", "equal_rewards", "kl", "clipped_tokens", "answer_tokens")
    monitor = (f"val/{TOTAL}", "max")

    def __init__(self, config: Config) -> None:
        self._settings, self._seed = config.training.grpo, config.run.seed
        self._steps_per_group = config.training.steps_per_group
        self._reference, self._store = ReferenceModel(), GroupStore()

    def training_output(self, model: HourLLaVA, step: StepInputs) -> ObjectiveOutput:
        """Compute the mean over the sampled answers."""
        settings, batch = self._settings, encode_frames_once(model, step.batch)
        prompts = build_prompts(model, batch, step.draw())
        groups = self._answer_groups(model, step, prompts)
        answers = [group.answers() for group in groups]
        log_probs, inputs = compute_log_probs(model, prompts, answers, settings.temperature)
        old = self._old_log_probs(step.batch, groups, log_probs.values.detach())

        def reference_log_probs() -> Tensor:
            shared = self._reference.shares_prompts
            own = prompts if shared else build_prompts(model, batch, step.draw())
            return compute_log_probs(model, own, answers, settings.temperature)[0].values

        reference = None
        if settings.kl_coefficient:
            reference = self._reference.run(model, reference_log_probs)  # (answers, tokens)
        scores = torch.cat([group.scores for group in groups])  # (answers, scores)
        is_answer = ~scores[:, 0].isnan()  # (answers,), false for a text without a question
        rewards = scores[:, 0].unflatten(0, (-1, settings.num_answers))  # (texts, answers)
        advantages = group_advantages(rewards, settings.scale_by_deviation)  # (texts, answers)
        losses, kl, is_clipped = grpo_losses(
            log_probs.values,
            old,
            advantages.nan_to_num(0.0).flatten(),  # (answers,)
            log_probs.mask,
            settings.clip_epsilon,
            reference,
            settings.kl_coefficient,
        )
        num_answers = is_answer.sum()  # ()
        deviations = rewards.std(dim=1)  # (texts,)
        deviations = deviations[~deviations.isnan()]  # (texts,)
        values = {
            **_score_values(scores),
            "reward_deviation": deviations,
            "equal_rewards": deviations == 0,
            "clipped_tokens": is_clipped[log_probs.mask],
            "answer_tokens": log_probs.mask.sum(dim=1)[is_answer],
            **({} if reference is None else {"kl": kl[log_probs.mask]}),
        }
        loss = losses.sum() / num_answers.clamp(min=1)  # ()
        metrics = metric_table(self.metric_names, values, losses.device)  # (metrics, 2)
        return ObjectiveOutput(loss, num_answers, inputs, metrics)

    def validation_metrics(
        self, model: HourLLaVA, step: StepInputs, inputs: LLMInputs, answers: Sequence[Answer]
    ) -> Tensor:
        """Compute the rewards of the greedy answers to a validation batch, `(metrics, 2)`."""
        scores = [
            score_answer(questions[0], answer, self._settings.rewards)
            for questions, answer in zip(step.batch.questions, answers, strict=True)
            if questions
        ]
        device = inputs.labels.device
        values = _score_values(torch.tensor(scores, device=device)) if scores else {}
        return metric_table(self.metric_names, values, device)

    def check_validation(self, metrics: Mapping[str, Tensor]) -> None:
        """Check nothing: each question has a reward."""

    def start(self, model: HourLLaVA) -> None:
        """Copy the weights of the reference model."""
        if self._settings.kl_coefficient:
            self._reference.start(model)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the reference model, and the answers of the current step."""
        return {"reference": self._reference.state_dict(), "answers": self._store.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the reference model, and answers that further steps learn from."""
        self._reference.load_state_dict(state.get("reference", {}))
        self._store.load_state_dict(state.get("answers", {}))

    def _answer_groups(
        self, model: HourLLaVA, step: StepInputs, prompts: LLMInputs
    ) -> list[AnswerGroup]:
        """Return the answers to each text: of an earlier step, or sampled now."""
        first_step = step.step // self._steps_per_group
        self._store.begin(first_step)
        names = text_names(step.batch)
        kept = [self._store.get(name) for name in names]
        device = prompts.labels.device
        if not all(kept):
            generators = sampling_generators(names, self._seed, first_step)
            new = self._sample(model, step, prompts, generators)
            kept = [old or group for old, group in zip(kept, new, strict=True)]
        return [group.to(device) for group in kept if group is not None]

    def _sample(
        self,
        model: HourLLaVA,
        step: StepInputs,
        prompts: LLMInputs,
        generators: Sequence[Generator],
    ) -> list[AnswerGroup]:
        """Sample and score a group of answers to each text."""
        num, tokenizer = self._settings.num_answers, step.get_processor().tokenizer
        sampler = GroupSampler(generators, num, len(tokenizer), self._settings.temperature)
        end_id = end_of_turn_id(tokenizer)
        tokens = model.llm.generate(
            left_pad_prompts(prompts),
            self._settings.max_new_tokens,
            end_id,
            select=sampler,
            num_copies=num,
        )
        groups = torch.stack(list(tokens), dim=1).split(num)  # (answers, tokens) each
        return [
            self._score(questions, ids, end_id, tokenizer)
            for questions, ids in zip(step.batch.questions, groups, strict=True)
        ]

    def _score(
        self, questions: Sequence[Question], ids: Tensor, end_id: int, tokenizer: Tokenizer
    ) -> AnswerGroup:
        """Return the group of the answers `(answers, tokens)` to a text."""
        is_end = ids == end_id  # (answers, tokens)
        lengths = (is_end.cumsum(dim=1) == 0).sum(dim=1) + is_end.any(dim=1)  # (answers,)
        if not questions:  # a batch that could not be read
            scores = torch.full((len(ids), len(SCORE_NAMES)), torch.nan, device=ids.device)
            return AnswerGroup(ids, torch.zeros_like(lengths), scores)
        texts = tokenizer.batch_decode(
            [one[:length] for one, length in zip(ids, lengths.tolist(), strict=True)],
            skip_special_tokens=True,
        )
        rows = [
            score_answer(questions[0], Answer(text, has_ended), self._settings.rewards)
            for text, has_ended in zip(texts, is_end.any(dim=1).tolist(), strict=True)
        ]
        scores = torch.tensor(rows, device=ids.device)  # (answers, scores)
        return AnswerGroup(ids, lengths, scores)

    def _old_log_probs(
        self, batch: Batch, groups: Sequence[AnswerGroup], current: Tensor
    ) -> Tensor:
        """Return the log-probabilities `(answers, tokens)` when the answers were sampled.

        Those of new answers are the current ones. They are kept with the answers if further steps
        learn from these.
        """
        old = []
        per_group = current.split(self._settings.num_answers)  # (group, tokens) each
        for name, group, values in zip(text_names(batch), groups, per_group, strict=True):
            if group.log_probs is None:
                own = values[:, : int(group.num_tokens.max())]  # (group, tokens)
                if self._steps_per_group > 1:
                    self._store.add(name, replace(group, log_probs=own))
            else:
                own = group.log_probs
            old.append(F.pad(own, (0, values.shape[1] - own.shape[1])))  # (group, tokens)
        return torch.cat(old)


def _score_values(scores: Tensor) -> dict[str, Tensor]:
    """Return the values of each reward function that applies, from scores `(answers, scores)`."""
    names = (TOTAL, *(f"{TOTAL}/{name}" for name in REWARDS))
    columns = zip(names, scores.unbind(dim=1), strict=True)
    return {name: column[~column.isnan()] for name, column in columns}
