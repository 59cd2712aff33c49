"""A question about what is remembered and answers that could be given -> how likely the model gives each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_hour.serving.session import Memory, Session
from lit_hour.types import Conversation


@dataclass(frozen=True)
class Likelihood:
    """How likely an answer is, and no word more.

    Attributes:
        log_probability: sum over its tokens and the end of the turn; the likelier, the higher.
        num_tokens: of them.
        is_greedy: whether each is the likeliest, so that the session would answer so.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, as training has it; the likelier, the lower."""
        return -self.log_probability / self.num_tokens


@torch.inference_mode()
def weigh_answers(session: Session, memory: Memory, conversation: Conversation, answers: Sequence[str]) -> list[Likelihood]:
    """How likely each answer is; white space around one does not count, as in training. The question is read once.

    Raises:
        QuestionError: the question is too long.
    """
    continuations = [session.processor.answer_ids(answer.strip()).to(session.device) for answer in answers]  # (tokens,) each
    prompt = session.prompt(memory, [conversation])
    log_probabilities, is_greedy = session.model.language.weigh(prompt, continuations)
    return [
        Likelihood(log_probability, len(ids), greedy)
        for log_probability, ids, greedy in zip(log_probabilities.tolist(), continuations, is_greedy.tolist(), strict=True)
    ]
