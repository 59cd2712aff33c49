"""Continuous batching: the next tokens of many answers in one forward pass of the language model.

Entry points: `BatchedDecoder` for the server, and `stream_answers` for a single prompt. Answers
about different memories join and leave between two tokens. Each has a KV cache, sampling parameters
and stop texts of its own, so it gets the same tokens as alone.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.errors import QuestionError
from lit_hour.inference.answer import Answer, AnswerPiece
from lit_hour.inference.answer_stream import AnswerStream
from lit_hour.inference.json_constraint import JsonConstraint, compile_schema
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.prefix_cache import PrefixCache
from lit_hour.model.sequence_cache import SequenceCache
from lit_hour.model.token_sampler import TokenSampler
from lit_hour.types import Conversation

if TYPE_CHECKING:
    from lit_hour.inference.predictor import VideoPredictor

MAX_PROMPT_TOKENS_PER_STEP = 1024  # a long prompt is read in parts; other answers go on in between


class Generation:
    """The answers to one prompt, from the prompt to the last token.

    Attributes:
        num_prompt_tokens: of text, and of the visual tokens that forgetting kept.
        num_cache_bytes: largest size of its KV caches.
    """

    def __init__(
        self,
        predictor: VideoPredictor,
        memory: VideoMemory,
        conversation: Conversation,
        params: SamplingParams,
    ) -> None:
        """Compute the visual tokens of the prompt, and prepare its answers.

        Raises:
            QuestionError: the conversation is too long, or its JSON schema cannot be used.
        """
        self.started = time.perf_counter()
        self.memory, self.seconds = memory, dict[str, float]()
        limit = predictor.config.generation.max_new_tokens
        limit = min(limit, params.max_new_tokens or limit)
        self.answers = self._begin_answers(predictor, params, limit)
        prompt = predictor.build_prompts(memory, [conversation])
        self.unread = self.prompt = prompt.embeddings[0]  # (tokens, dim)
        self.num_prompt_tokens = len(self.prompt)
        self.cache = SequenceCache()
        self.prefixes = _usable_prefixes(predictor, memory)
        num_tokens = len(self.answers) * (self.num_prompt_tokens + limit)
        self.num_cache_bytes = num_tokens * predictor.model.llm.cache_bytes_per_token

    def _begin_answers(
        self, predictor: VideoPredictor, params: SamplingParams, limit: int
    ) -> list[AnswerInProgress]:
        tokenizer, schema = predictor.processor.tokenizer, params.json_schema
        grammar = None if schema is None else compile_schema(tokenizer, schema)
        answers = []
        for index in params.choices:
            constraint = None if grammar is None else JsonConstraint(grammar)
            sampler = TokenSampler(params, len(tokenizer), predictor.device, index, constraint)
            stream = AnswerStream(tokenizer, index, limit, params.stop)
            answers.append(AnswerInProgress(self, stream, sampler))
        return answers

    def find_prefix(self) -> None:
        """Skip the part of the prompt that was read before."""
        cache = None if self.prefixes is None else self.prefixes.find(self.prompt)
        if cache is not None:
            self.cache, self.unread = cache, self.prompt[cache.num_tokens :]  # (tokens, dim)

    def finish_prompt(self) -> None:
        """Let the answers go on from the prompt, each with a cache of its own."""
        self.seconds["first_token"] = time.perf_counter() - self.started
        if self.prefixes is not None:
            self.prefixes.add(self.prompt, self.cache)
        first, *others = self.answers
        for answer in others:
            answer.cache = self.cache.fork()
        first.cache = self.cache
        self.prompt = self.unread = self.prompt[:0].clone()  # frees its memory


@dataclass(eq=False)
class AnswerInProgress:
    """One answer of a generation.

    Attributes:
        stream: its text so far.
        sampler: of its tokens.
        cache: of the prompt, and of the tokens before `token`.
        token: the latest one.
    """

    generation: Generation
    stream: AnswerStream
    sampler: TokenSampler
    cache: SequenceCache = field(default_factory=SequenceCache)
    token: int = 0

    def add_token(self, logits: Tensor, most_likely: int) -> list[AnswerPiece | Answer]:
        """Choose the next token; return its piece, and the answer if it is complete.

        Args:
            logits: `(vocabulary,)`.
            most_likely: token with the largest logit.

        Raises:
            QuestionError: the JSON schema cannot be followed any further.
        """
        is_plain = self.sampler.takes_most_likely
        self.token = most_likely if is_plain else self.sampler(logits)
        piece = self.stream.add(self.token, self.sampler.logprob)
        return [piece] if self.stream.finish_reason is None else [piece, self._complete()]

    def _complete(self) -> Answer:
        generation, stream = self.generation, self.stream
        assert stream.finish_reason is not None
        memory, seconds = generation.memory, generation.seconds
        elapsed_seconds = time.perf_counter() - generation.started
        return Answer(
            stream.text,
            num_frames=memory.num_frames,
            num_memory_tokens=len(memory.repository.positions),
            num_prompt_tokens=generation.num_prompt_tokens,
            num_new_tokens=stream.num_tokens,
            finish_reason=stream.finish_reason,
            seconds={
                **memory.seconds,
                **seconds,
                "other_tokens": elapsed_seconds - seconds["first_token"],
            },
            index=stream.index,
            logprobs=tuple(stream.logprobs),
        )


Event = AnswerPiece | Answer | QuestionError


class BatchedDecoder:
    """Generates the answers to several prompts together, one step at a time. Not thread-safe.

    Attributes:
        prompts: generations whose prompt is being read, in the order in which they joined.
        answers: that are being generated.
    """

    def __init__(self, predictor: VideoPredictor) -> None:
        self.prompts: list[Generation] = []
        self.answers: list[AnswerInProgress] = []
        self._predictor = predictor

    @torch.inference_mode()
    def prepare(
        self, memory: VideoMemory, conversation: Conversation, params: SamplingParams = GREEDY
    ) -> Generation:
        """Compute the prompt of a conversation, for `add`.

        Args:
            memory: of the video or images.
            conversation: up to the answer.
            params: how to sample, and how many answers.

        Raises:
            QuestionError: the conversation is too long, or its JSON schema cannot be used.
        """
        return Generation(self._predictor, memory, conversation, params)

    def add(self, generation: Generation) -> None:
        """Let a prompt, and then its answers, join at the next step."""
        generation.find_prefix()
        self.prompts.append(generation)

    def remove(self, generation: Generation) -> None:
        """Let a prompt and its answers leave, if they are not complete yet."""
        self.prompts = [other for other in self.prompts if other is not generation]
        self.answers = [answer for answer in self.answers if answer.generation is not generation]

    @torch.inference_mode()
    def step(self) -> list[tuple[Generation, Event]]:
        """Generate one token of each answer, and read a part of the new prompts.

        If it raises an error, for lack of memory, nothing has changed. It may then be repeated.

        Returns:
            A piece of each answer, and the `Answer` when it is complete. A `QuestionError` ends its
            generation.
        """
        parts = self._parts_of_prompts()
        answers = list(self.answers)
        if not parts and not answers:
            return []
        logits = self._read(parts, answers)  # (prompts + answers, vocabulary)
        rows = [len(parts) + row for row in range(len(answers))]  # of the logits, for each answer
        for row, (generation, tokens) in enumerate(parts):
            generation.unread = generation.unread[len(tokens) :]  # (tokens, dim)
            if len(generation.unread) == 0:
                self.prompts.remove(generation)
                generation.finish_prompt()
                answers += generation.answers
                rows += [row] * len(generation.answers)
        return self._add_tokens(answers, logits[rows])

    def _parts_of_prompts(self) -> list[tuple[Generation, Tensor]]:
        """Return the tokens `(tokens, dim)` of each prompt that this step reads."""
        parts, num_left = [], MAX_PROMPT_TOKENS_PER_STEP
        for generation in self.prompts:
            tokens = generation.unread[:num_left]  # (tokens, dim)
            if len(tokens):
                parts.append((generation, tokens))
            num_left -= len(tokens)
        return parts

    def _read(
        self, parts: Sequence[tuple[Generation, Tensor]], answers: Sequence[AnswerInProgress]
    ) -> Tensor:
        """Return the logits after parts of prompts, and after the latest token of answers."""
        llm, device = self._predictor.model.llm, self._predictor.device
        latest = torch.tensor([answer.token for answer in answers], device=device)  # (answers,)
        embeddings = [tokens for _, tokens in parts]
        caches = [generation.cache for generation, _ in parts]
        if answers:
            embeddings += llm.embed(latest).split(1)  # (1, dim) each
            caches += [answer.cache for answer in answers]
        return llm.read(embeddings, caches)  # (prompts + answers, vocabulary)

    def _add_tokens(
        self, answers: Sequence[AnswerInProgress], logits: Tensor
    ) -> list[tuple[Generation, Event]]:
        """Choose the next token of each answer from its logits, `(answers, vocabulary)`."""
        events: list[tuple[Generation, Event]] = []
        num_tokens = len(self._predictor.processor.tokenizer)  # the embedding may have more rows
        most_likely = logits[:, :num_tokens].argmax(dim=-1).tolist()  # (answers,)
        failed: set[Generation] = set()
        for answer, row, token in zip(answers, logits, most_likely, strict=True):
            generation = answer.generation
            if generation in failed:
                continue
            try:
                events += [(generation, event) for event in answer.add_token(row, token)]
            except QuestionError as error:
                failed.add(generation)
                events.append((generation, error))
        self.answers = [
            answer
            for answer in answers
            if answer.stream.finish_reason is None and answer.generation not in failed
        ]
        return events


def stream_answers(
    predictor: VideoPredictor,
    memory: VideoMemory,
    conversation: Conversation,
    params: SamplingParams = GREEDY,
) -> Generator[AnswerPiece | Answer, None, None]:
    """Generate the answers to one conversation; the prompt is read once for all of them.

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
    decoder = BatchedDecoder(predictor)
    decoder.add(decoder.prepare(memory, conversation, params))
    while decoder.prompts or decoder.answers:
        for _, event in decoder.step():
            if isinstance(event, QuestionError):
                raise event
            yield event


def _usable_prefixes(predictor: VideoPredictor, memory: VideoMemory) -> PrefixCache | None:
    """Return the KV caches of earlier turns, unless the visual tokens depend on all questions."""
    is_first = predictor.config.text.memaug_question_scope == "first"
    return predictor.prefixes if is_first or memory.num_placeholders == 0 else None
