"""Generate answers token by token: decoded text, stop texts, log-probabilities.

Entry point: `stream_answers`, behind `VideoPredictor.generate` and the server.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.inference.answer import Answer, AnswerPiece, TokenLogprob
from lit_hour.inference.json_constraint import JsonConstraint, compile_schema
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.prefix_cache import PrefixCache
from lit_hour.model.token_sampler import TokenSampler
from lit_hour.text.tokenizer import Tokenizer, end_of_turn_id
from lit_hour.types import Conversation

if TYPE_CHECKING:
    from lit_hour.inference.predictor import VideoPredictor

REPLACEMENT_CHARACTER = "\ufffd"  # decoded while the last bytes of a character are missing


class TextStream:
    """Decodes the tokens of one answer into pieces of text, up to a stop text.

    Attributes:
        ids: of the tokens so far.
        text: of the pieces so far.
        is_stopped: a stop text was found; it and what follows are left out.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.is_stopped = False
        self._tokenizer, self._stop, self._decoded = tokenizer, stop, ""

    def add(self, token: int) -> str:
        """Add a token, and return the text that is certain now."""
        self.ids.append(token)
        decoded = str(self._tokenizer.decode(self.ids, skip_special_tokens=True))
        if decoded.endswith(REPLACEMENT_CHARACTER):
            self._decoded = decoded
            return ""
        return self._emit(decoded, num_held=_num_held(decoded, self._stop))

    def finish(self) -> str:
        """Return the rest of the text, which was held back."""
        return "" if self.is_stopped else self._emit(self._decoded, num_held=0)

    def _emit(self, decoded: str, num_held: int) -> str:
        self._decoded = decoded
        found = [start for stop in self._stop if (start := decoded.find(stop)) >= 0]
        self.is_stopped = bool(found)
        text = decoded[: min(found)] if found else decoded[: len(decoded) - num_held]
        piece = text.removeprefix(self.text)
        self.text = text
        return piece


def _num_held(text: str, stop: Sequence[str]) -> int:
    """Return the length of the longest end of a text that a stop text may begin with."""
    lengths = (
        length
        for word in stop
        for length in range(1, min(len(word), len(text) + 1))
        if text.endswith(word[:length])
    )
    return max(lengths, default=0)


@dataclass
class _Choice:
    """One of the answers to a prompt, while it is generated."""

    index: int
    stream: TextStream
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_finished: bool = False

    def complete(
        self, memory: VideoMemory, num_prompt_tokens: int, end_id: int, seconds: dict[str, float]
    ) -> Answer:
        """Return the answer, and mark it as finished."""
        self.is_finished = True
        ids = self.stream.ids
        has_ended = ids[-1] == end_id or self.stream.is_stopped
        return Answer(
            self.stream.text,
            num_frames=memory.num_frames,
            num_memory_tokens=len(memory.repository.positions),
            num_prompt_tokens=num_prompt_tokens,
            num_new_tokens=len(ids),
            finish_reason="stop" if has_ended else "length",
            seconds={**memory.seconds, **seconds},
            index=self.index,
            logprobs=tuple(self.logprobs),
        )


@torch.inference_mode()
def stream_answers(
    predictor: VideoPredictor,
    memory: VideoMemory,
    conversation: Conversation,
    params: SamplingParams = GREEDY,
) -> Generator[AnswerPiece | Answer, None, None]:
    """Generate the answers to a conversation; the prompt is encoded once for all of them.

    Args:
        predictor: with the model.
        memory: of the video or images.
        conversation: up to the answer.
        params: how to sample, and how many answers.

    Yields:
        A piece for each token of each answer, and an `Answer` when it is complete.

    Raises:
        QuestionError: the conversation is too long, or its JSON schema cannot be used.
    """
    started = time.perf_counter()
    tokenizer = predictor.processor.tokenizer
    end_id, limit = end_of_turn_id(tokenizer), predictor.config.generation.max_new_tokens
    limit = min(limit, params.max_new_tokens or limit)
    constraints = _build_constraints(predictor, params)
    sampler = TokenSampler(params, len(tokenizer), predictor.device, constraints)
    prompt = predictor.build_prompts(memory, [conversation])
    steps = predictor.model.llm.generate(
        prompt,
        limit,
        end_id,
        select=sampler,
        num_copies=params.num_choices,
        prefixes=_usable_prefixes(predictor, memory),
    )
    choices = [_Choice(index, TextStream(tokenizer, params.stop)) for index in params.choices]
    seconds: dict[str, float] = {}
    for step, tokens in enumerate(steps, start=1):
        seconds.setdefault("first_token", time.perf_counter() - started)
        for choice, token in zip(choices, tokens.tolist(), strict=True):
            if choice.is_finished:
                continue
            text, logprob = choice.stream.add(token), None
            if sampler.logprobs and token != end_id:
                logprob = _name_tokens(tokenizer, token, *sampler.logprobs[choice.index])
                choice.logprobs.append(logprob)
            is_last = token == end_id or choice.stream.is_stopped or step == limit
            if is_last:
                text += choice.stream.finish()
            yield AnswerPiece(text, choice.index, logprob)
            if is_last:
                rest_seconds = time.perf_counter() - started - seconds["first_token"]
                num_prompt_tokens = prompt.embeddings.shape[1]
                yield choice.complete(
                    memory, num_prompt_tokens, end_id, {**seconds, "other_tokens": rest_seconds}
                )
        if all(choice.is_finished for choice in choices):
            return


def _usable_prefixes(predictor: VideoPredictor, memory: VideoMemory) -> PrefixCache | None:
    """Return the KV caches of earlier turns, unless the visual tokens depend on all questions."""
    is_first = predictor.config.text.memaug_question_scope == "first"
    return predictor.prefixes if is_first or memory.num_placeholders == 0 else None


def _build_constraints(predictor: VideoPredictor, params: SamplingParams) -> list[JsonConstraint]:
    if params.json_schema is None:
        return []
    grammar = compile_schema(predictor.processor.tokenizer, params.json_schema)
    return [JsonConstraint(grammar) for _ in range(params.num_choices)]


def _name_tokens(
    tokenizer: Tokenizer, token: int, logprob: float, top: Sequence[tuple[int, float]]
) -> TokenLogprob:
    return TokenLogprob(
        str(tokenizer.decode([token])),
        logprob,
        tuple((str(tokenizer.decode([other])), value) for other, value in top),
    )
