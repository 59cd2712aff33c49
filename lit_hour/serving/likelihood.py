"""How likely a given answer to a question about what is remembered: the loss of training, of one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from lit_hour.errors import QuestionError
from lit_hour.processor import Processor
from lit_hour.serving.session import Memory, Session
from lit_hour.types import Conversation, Example, Message


@dataclass(frozen=True)
class Likelihood:
    """How likely an answer is.

    Attributes:
        loss: mean negative log-probability of its tokens and of the end of the turn; the likelier, the lower.
        num_tokens: over which the mean is taken.
        is_greedy: whether each token is the likeliest, so that `Session.ask` would answer so.
    """

    loss: float
    num_tokens: int
    is_greedy: bool


@torch.inference_mode()
def measure_likelihood(session: Session, memory: Memory, question: str, answer: str) -> Likelihood:
    """How likely the model is to give an answer; white space around it does not count, as in training.

    Raises:
        QuestionError: the question is empty, or it is too long together with the answer.
    """
    settings = replace(session.config.text, learn_template=False)  # the answer alone counts, and all else is seen
    processor = Processor(session.processor.tokenizer, settings)
    asked = processor.ask(question)
    conversation = Conversation((*asked.messages, Message("assistant", answer)))
    texts = processor.texts([conversation], num_placeholders=memory.num_placeholders, note=memory.note)
    batch = processor.batch([Example(memory.source, None, texts)]).to(session.device)
    inputs = session.model.read(batch, [memory.repository])
    if inputs.num_cut:
        raise QuestionError(
            f"the question and the answer {answer!r} do not fit beside the tokens of {memory.source} in"
            f" text.max_tokens={session.config.text.max_tokens}: raise it"
        )
    logits, targets = session.model.language.learnt_logits(inputs)  # (learnt, vocabulary), (learnt,)
    is_greedy = bool((logits.argmax(dim=-1) == targets).all())
    return Likelihood(F.cross_entropy(logits, targets).item(), len(targets), is_greedy)
