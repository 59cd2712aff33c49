"""One answer while it is generated: tokens to pieces of text, stop texts, log-probabilities.

Entry points: `TextStream`, and `AnswerStream`, which `inference.batching` has for each answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lit_hour.inference.answer import AnswerPiece, TokenLogprob
from lit_hour.text.tokenizer import Tokenizer, end_of_turn_id

REPLACEMENT_CHARACTER = "\ufffd"  # decoded while the last bytes of a character are missing
MAX_PENDING_TOKENS = 16  # without the end of a character; a valid one has at most four


class TextStream:
    """Decodes the tokens of one answer into pieces of text, up to a stop text.

    Only the latest tokens are decoded: those of the piece before, since a tokenizer may treat the
    first token of a text in a way of its own, and those that no piece has yet.

    Attributes:
        text: of the pieces so far.
        decoded: `text`, and what is held back because a stop text may begin with it.
        is_stopped: a stop text was found; it and what follows are left out.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.text = self.decoded = ""
        self.is_stopped = False
        self._tokenizer, self._stop = tokenizer, stop
        self._skipped_ids = frozenset(tokenizer.all_special_ids)
        self._before: list[int] = []  # tokens of the piece before
        self._pending: list[int] = []  # tokens that end in the middle of a character

    def add(self, token: int) -> str:
        """Add a token, and return the text that is certain now."""
        if token not in self._skipped_ids:
            self._pending.append(token)
            decoded = self._decode_pending()
            is_partial = decoded.endswith(REPLACEMENT_CHARACTER)
            if is_partial and len(self._pending) < MAX_PENDING_TOKENS:
                return ""
            self._extend(decoded)
        return self._emit(num_held=_num_held(self.decoded, self._stop))

    def finish(self) -> str:
        """Return the rest of the text, which was held back."""
        if self.is_stopped:
            return ""
        self._extend(self._decode_pending())
        return self._emit(num_held=0)

    def _decode_pending(self) -> str:
        prefix, both = (
            str(self._tokenizer.decode(ids, skip_special_tokens=True))
            for ids in (self._before, self._before + self._pending)
        )
        return both[len(prefix) :]

    def _extend(self, decoded: str) -> None:
        """Add the text of the pending tokens, and look for a stop text that ends in it."""
        searched = len(self.decoded) - max(map(len, self._stop), default=0)
        self.decoded += decoded
        if self._pending:
            self._before, self._pending = self._pending, []
        starts = [self.decoded.find(stop, max(0, searched)) for stop in self._stop]
        found = [start for start in starts if start >= 0]
        if found:
            self.is_stopped, self.decoded = True, self.decoded[: min(found)]

    def _emit(self, num_held: int) -> str:
        end = len(self.decoded) - (0 if self.is_stopped else num_held)
        piece = self.decoded[len(self.text) : end]
        self.text += piece
        return piece


class AnswerStream:
    """The tokens of one answer, as the pieces that clients get.

    Attributes:
        num_tokens: so far, including the end of the turn.
        logprobs: of the tokens of `text`.
        finish_reason: None until the last token.
    """

    def __init__(
        self, tokenizer: Tokenizer, index: int, max_tokens: int, stop: Sequence[str]
    ) -> None:
        self.index, self.num_tokens = index, 0
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: Literal["stop", "length"] | None = None
        self._text = TextStream(tokenizer, stop)
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._end_id = end_of_turn_id(tokenizer)
        self._held: list[tuple[int, TokenLogprob]] = []  # where the text of a token begins

    @property
    def text(self) -> str:
        """The text of the pieces so far."""
        return self._text.text

    def add(self, token: int, logprob: tuple[float, list[tuple[int, float]]] | None) -> AnswerPiece:
        """Add a token; `finish_reason` is set with the last one.

        Args:
            token: id.
            logprob: of `TokenSampler`, if log-probabilities are wanted.
        """
        start = len(self._text.decoded)
        self.num_tokens += 1
        text = self._text.add(token)
        if logprob is not None and token != self._end_id:
            self._held.append((start, self._name(token, *logprob)))
        is_last = token == self._end_id or self.num_tokens == self._max_tokens
        if is_last or self._text.is_stopped:
            text += self._text.finish()
            has_ended = token == self._end_id or self._text.is_stopped
            self.finish_reason = "stop" if has_ended else "length"
        return AnswerPiece(text, self.index, self._release_logprobs())

    def _release_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return the log-probabilities of the tokens whose text was emitted, at least in part."""
        is_complete = self.finish_reason is not None and not self._text.is_stopped
        end = len(self.text)
        released = [logprob for start, logprob in self._held if start < end or is_complete]
        self._held = self._held[len(released) :]
        self.logprobs += released
        return tuple(released)

    def _name(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        decode = self._tokenizer.decode
        named = tuple((str(decode([other])), value) for other, value in top)
        return TokenLogprob(str(decode([token])), logprob, named)


def _num_held(text: str, stop: Sequence[str]) -> int:
    """Return the length of the longest end of a text that a stop text may begin with."""
    lengths = (
        length
        for word in stop
        for length in range(1, min(len(word), len(text) + 1))
        if text.endswith(word[:length])
    )
    return max(lengths, default=0)
