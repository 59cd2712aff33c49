"""Bring preference pairs of other projects into the form of this one: an answer and a rejected one.

TRL writes `prompt`, `chosen` and `rejected` as texts or as lists of messages, with the prompt of
its own or at the start of both; LLaVA-Hound adds an `answer` that is neither; LLaMA-Factory has
`conversations` up to the question and a turn for each answer; ms-swift has `rejected_response`
beside `messages`.
"""

from __future__ import annotations

from typing import Any

from lit_hour.errors import QuestionError

_TEXT_KEYS = ("value", "content")  # of a turn
_PAIR_KEYS = ("prompt", "chosen", "rejected", "rejected_response")


def unify_preference(record: dict[str, Any], location: str) -> dict[str, Any]:
    """Make the chosen answer of a record its answer, or its last turn.

    Args:
        record: of any project; one without a rejected answer is returned as it is.
        location: the file and the record, for errors.

    Raises:
        QuestionError: one of the two answers is missing, or they answer different prompts.
    """
    pair = {key: value for key, value in record.items() if value not in (None, "", [])}
    rejected = pair.get("rejected", pair.get("rejected_response"))
    if rejected is None:
        if "chosen" in pair:
            raise QuestionError(f"{location}: key 'rejected' is missing beside 'chosen'.")
        return record
    unified = {key: value for key, value in pair.items() if key not in _PAIR_KEYS}
    unified["rejected"] = _text_of(rejected, "rejected", location)
    if "chosen" not in pair:
        return unified
    turns = _prompt_turns(pair, rejected, location)
    if turns is None and "question" not in pair:
        if "prompt" not in pair:
            raise QuestionError(f"{location}: key 'prompt' is missing beside 'chosen'.")
        unified["question"] = pair["prompt"]
    answer = _text_of(pair["chosen"], "chosen", location)
    if turns is None:
        unified["answer"] = answer
        return unified
    unified.pop("messages", None)
    unified["conversations"] = [*turns, {"role": "assistant", "content": answer}]
    return unified


def _prompt_turns(record: dict[str, Any], rejected: Any, location: str) -> list[Any] | None:
    """Return the turns before the answers; None if the prompt is a text."""
    for key in ("conversations", "messages", "prompt"):
        if isinstance(record.get(key), list):
            return list(record[key])
    if "prompt" in record or "question" in record:
        return None
    chosen = record["chosen"]
    if not isinstance(chosen, list) or len(chosen) < 2:
        return None
    if not isinstance(rejected, list) or rejected[:-1] != chosen[:-1]:
        raise QuestionError(
            f"{location}: 'chosen' and 'rejected' must begin with the same messages, the prompt."
        )
    return chosen[:-1]


def _text_of(answer: Any, key: str, location: str) -> str:
    """Return the text of an answer: a text, a turn, or a list that ends with one."""
    if isinstance(answer, list) and answer:
        answer = answer[-1]
    if isinstance(answer, dict):
        answer = next((answer[name] for name in _TEXT_KEYS if name in answer), answer)
    if isinstance(answer, list):  # content parts
        parts = [part.get("text") if isinstance(part, dict) else part for part in answer]
        texts = [part for part in parts if isinstance(part, str)]
        answer = "".join(texts) if len(texts) == len(parts) else answer
    if not isinstance(answer, str):
        raise QuestionError(
            f"{location}: key '{key}' must be a text or messages with a text, not {answer!r}."
        )
    return answer
