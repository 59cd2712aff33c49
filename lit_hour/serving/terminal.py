"""Questions from a keyboard in, answers from memory out, until the input ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from lit_hour.errors import InputError
from lit_hour.serving.evidence import Evidence, find_evidence
from lit_hour.serving.session import Memory, Session
from lit_hour.types import Answer, Message

HELP = """Ask something. Earlier questions and answers count; Ctrl-C stops an answer.
  :evidence   where in the video the last answer rests
  :forget     begin a new conversation about the same video
  :help       this
  :quit       or Ctrl-D"""
BARS = " ▁▂▃▄▅▆▇█"
CURVE_COLUMNS = 60


class Talk:
    """One person and a model, about one video or some pictures."""

    def __init__(self, session: Session, memory: Memory, read: Callable[[str], str] = input) -> None:
        """Args: read: shows a prompt and gives the line that was typed; EOFError ends the conversation."""
        self._session, self._memory, self._read = session, memory, read
        self._history: list[Message] = []
        self._commands = {":evidence": self._show_evidence, ":forget": self._history.clear, ":help": lambda: print(HELP)}

    def run(self) -> None:
        """Answer until the input ends; what cannot be answered is said, and the next question may be asked."""
        print(HELP)
        with suppress(EOFError):
            while (line := self._next_line()) != ":quit":
                try:
                    self._take(line)
                except InputError as error:
                    print(f"error: {error}")

    def _next_line(self) -> str:
        while True:
            try:
                if line := self._read("> ").strip():
                    return line
            except KeyboardInterrupt:
                print("\n:quit or Ctrl-D ends the conversation")

    def _take(self, line: str) -> None:
        if line in self._commands:
            self._commands[line]()
        elif line.startswith(":"):
            print(f"there is no {line}; there are {', '.join(self._commands)} and :quit")
        else:
            self._ask(line)

    def _ask(self, question: str) -> None:
        """Print the answer as it comes; one that is stopped counts as far as it came."""
        said = ""
        try:
            for piece in self._session.ask(self._memory, question, self._history):
                if isinstance(piece, Answer):
                    seconds = sum(piece.seconds[part] for part in ("first token", "other tokens"))
                    print(f"\n[{seconds:.2f} s]")
                else:
                    said += piece
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print("\n[stopped]")
        self._history += [Message("user", question), Message("assistant", said)]

    def _show_evidence(self) -> None:
        if not self._history:
            print("ask something first")
            return
        *earlier, question, answer = self._history
        print(describe(find_evidence(self._session, self._memory, question.text, answer.text, earlier)))


def describe(evidence: Evidence) -> str:
    """The curve over the whole video in one line, and its moments."""
    if not evidence.moments:
        return "no moment stands out"
    columns = [0.0] * min(CURVE_COLUMNS, len(evidence.curve))
    for place, (_, share) in enumerate(evidence.curve):
        column = place * len(columns) // len(evidence.curve)
        columns[column] = max(columns[column], share)
    line = "".join(BARS[round(each / max(columns) * (len(BARS) - 1))] for each in columns)
    moments = [
        f"  {clock(moment.start_seconds)} to {clock(moment.end_seconds)}: {moment.share:.0%} of the answer rests on it"
        for moment in evidence.moments
    ]
    return "\n".join([f"|{line}|", *moments])


def clock(seconds: float) -> str:
    """75.4 -> "0:01:15"."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
