"""Constrain answers to a JSON schema with llguidance, an optional package.

Entry points: `compile_schema`, and `JsonConstraint` for one answer.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lit_hour.errors import QuestionError
from lit_hour.text.tokenizer import Tokenizer, end_of_turn_id

HAS_LLGUIDANCE = find_spec("llguidance") is not None  # answers without a schema need none of it
MAX_SCHEMA_CHARACTERS = 100_000
MAX_REASON_CHARACTERS = 200


def compile_schema(tokenizer: Tokenizer, schema: str) -> Any:
    """Compile a JSON schema; a later call with the same one returns the same object.

    Remote references are not fetched, and the limits of llguidance bound time and memory.

    Args:
        tokenizer: of the answers.
        schema: JSON of an object; `{"type": "object"}` for any object.

    Returns:
        The matcher at the beginning of an answer.

    Raises:
        QuestionError: llguidance is not installed, or the schema is invalid or too large.
    """
    if not HAS_LLGUIDANCE:
        raise QuestionError(
            "JSON answers need the package llguidance, which is not installed here. Install it, or"
            " ask for text."
        )
    if len(schema) > MAX_SCHEMA_CHARACTERS:
        raise QuestionError(
            f"The JSON schema has {len(schema):,} characters. Give at most"
            f" {MAX_SCHEMA_CHARACTERS:,}."
        )
    return _compile(tokenizer, schema)


class JsonConstraint:
    """The tokens that a schema permits next in one answer."""

    def __init__(self, matcher: Any) -> None:
        """Args: matcher: as `compile_schema` returns it; it is not changed."""
        self._matcher = matcher.deep_copy()
        self._num_consumed = 0

    def __call__(self, ids: list[int]) -> Tensor:
        """Return which tokens may follow the answer so far: `(vocabulary,)` bool.

        Raises:
            QuestionError: the schema became too complex at this point.
        """
        if self._num_consumed < len(ids) and not self._matcher.is_stopped():
            self._matcher.consume_tokens(ids[self._num_consumed :])
        self._num_consumed = len(ids)
        bias = self._matcher.compute_logit_bias()
        if self._matcher.is_error():
            raise _invalid(self._matcher.get_error())
        return torch.frombuffer(bytearray(bias), dtype=torch.uint8) > 0  # (vocabulary,)


@lru_cache(maxsize=2)
def _wrap_tokenizer(tokenizer: Tokenizer) -> Any:
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, eos_token=end_of_turn_id(tokenizer))


@lru_cache(maxsize=16)
def _compile(tokenizer: Tokenizer, schema: str) -> Any:
    from llguidance import LLMatcher

    try:
        # with flexible white space an answer could be blanks up to its limit
        grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False})
    except ValueError as error:
        raise _invalid(str(error)) from error
    matcher = LLMatcher(_wrap_tokenizer(tokenizer), grammar, log_level=0)
    if matcher.is_error():
        raise _invalid(matcher.get_error())
    return matcher


def _invalid(reason: str) -> QuestionError:
    reason = reason.strip().partition("\n")[0][:MAX_REASON_CHARACTERS]
    return QuestionError(f"The JSON schema cannot be used: {reason}. Correct or simplify it.")
