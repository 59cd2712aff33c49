"""Log-probabilities of several answers to each question; its video is encoded once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.multimodal_inputs import replace_answers
from lit_hour.types import Batch, Features, Frames


@dataclass(frozen=True)
class AnswerLogProbs:
    """Log-probabilities of the tokens of answers.

    Attributes:
        values: `(answers, tokens)` float32, zero in the padding on the right.
        mask: `(answers, tokens)` bool, false in the padding.
    """

    values: Tensor
    mask: Tensor

    @property
    def of_answers(self) -> Tensor:
        """The log-probability of each answer: `(answers,)`."""
        return self.values.sum(dim=1)


def encode_frames_once(model: HourLLaVA, batch: Batch) -> Batch:
    """Replace the frames of videos by their features if the vision encoder is frozen.

    So the reference model, which has the same encoder, does not encode them again.
    """
    if any(parameter.requires_grad for parameter in model.vision.parameters()):
        return batch
    frames = [visual for visual in batch.visuals if isinstance(visual, Frames)]
    with torch.no_grad():
        encoded = iter(model.vision(frames) if frames else ())  # (frames, tokens, vision_dim) each
    visuals = tuple(
        Features(next(encoded), visual.timestamps) if isinstance(visual, Frames) else visual
        for visual in batch.visuals
    )
    return replace(batch, visuals=visuals)


def build_prompts(
    model: HourLLaVA, batch: Batch, generators: Sequence[Generator] | None
) -> LLMInputs:
    """Return the texts with their visual tokens; each memory repository is built once."""
    repositories = model.build_repositories(batch.visuals, lazy=True)
    return model.build_inputs(batch, repositories, generators)


def compute_log_probs(
    model: HourLLaVA,
    prompts: LLMInputs,
    answers: Sequence[Sequence[Tensor]],
    temperature: float = 1.0,
) -> tuple[AnswerLogProbs, LLMInputs]:
    """Compute the log-probabilities of answers.

    Args:
        model: the model.
        prompts: texts; their own answers are not used.
        answers: token ids `(tokens,)` of the answers to each text; an answer without tokens has
            gradients of zero.
        temperature: divides the logits.

    Returns:
        The log-probabilities of all answers, text by text, and what the language model read. An
        answer that was truncated has only its first tokens.
    """
    inputs = replace_answers(prompts, answers, model.llm.embed, model.max_tokens)
    flat = model.llm.target_log_probs(inputs, temperature)  # (targets,)
    lengths = inputs.is_target.sum(dim=1)  # (answers,)
    values = pad_sequence(list(flat.split(lengths.tolist())), batch_first=True)
    positions = torch.arange(values.shape[1], device=values.device)  # (tokens,)
    return AnswerLogProbs(values, positions < lengths[:, None]), inputs  # (answers, tokens)
