"""Questions from a command line or a keyboard in, answers from memory out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_hour.errors import InputError
from lit_hour.inference.attribution import Attribution, attribute_answer
from lit_hour.inference.inputs import MEMORY_SUFFIX
from lit_hour.inference.predictor import Answer, VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Message

HELP = """Ask something. Earlier questions and answers count; Ctrl-C stops an answer.
  :evidence   where in the video the last answer rests
  :forget     begin a new conversation about the same video
  :save FILE  keep the memory; FILE ends in .safetensors, and `ask FILE` goes on from it
  :help       this
  :quit       or Ctrl-D"""
BARS = " ▁▂▃▄▅▆▇█"
CURVE_COLUMNS = 60


def load_or_encode(predictor: VideoPredictor, files: Sequence[Path]) -> VideoMemory:
    """Read a video or pictures with a progress bar, or a memory that was saved.

    Raises:
        InputError: as `Session.remember` or `load_memory`.
    """
    if files[0].suffix == MEMORY_SUFFIX:
        return load_memory(predictor, files[0])
    with tqdm(desc="reading", unit="frame", leave=False, disable=None) as bar:

        def show(num_read: int, num_frames: int) -> None:
            bar.total = num_frames
            bar.update(num_read - bar.n)

        return predictor.encode_video(files, show)


def print_answer(predictor: VideoPredictor, memory: VideoMemory, question: str) -> None:
    """Print an answer as it comes, then what it took."""
    for piece in predictor.generate(memory, question):
        if isinstance(piece, Answer):
            parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in piece.seconds.items())
            seen = (
                f"{piece.num_frames} frames"
                if piece.num_frames
                else f"pictures: {memory.num_placeholders}"
            )
            print(f"\n[{seen}, {piece.num_memory_tokens} tokens in memory; {parts}]")
        else:
            print(piece, end="", flush=True)


class Repl:
    """One person and a model, about one video or some pictures."""

    def __init__(
        self, predictor: VideoPredictor, memory: VideoMemory, read: Callable[[str], str] = input
    ) -> None:
        """Args: read: shows a prompt and gives the line that was typed; EOFError ends the conversation."""
        self._predictor, self._memory, self._read = predictor, memory, read
        self._history: list[Message] = []
        self._commands: dict[str, Callable[[str], Any]] = {
            ":evidence": lambda _: self._show_moments(),
            ":forget": lambda _: self._history.clear(),
            ":save": self._save,
            ":help": lambda _: print(HELP),
        }

    def run(self) -> None:
        """Answer until the input ends; what cannot be answered is said, and the next question may be asked."""
        print(HELP)
        with suppress(EOFError):
            while (line := self._next_line()) != ":quit":
                try:
                    self._handle(line)
                except InputError as error:
                    print(f"error: {error}")

    def _next_line(self) -> str:
        while True:
            try:
                if line := self._read("> ").strip():
                    return line
            except KeyboardInterrupt:
                print("\n:quit or Ctrl-D ends the conversation")

    def _handle(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command in self._commands:
            self._commands[command](rest.strip())
        elif command.startswith(":"):
            print(f"there is no {command}; there are {', '.join(self._commands)} and :quit")
        else:
            self._generate(line)

    def _generate(self, question: str) -> None:
        """Print the answer as it comes; one that is stopped counts as far as it came."""
        said = ""
        try:
            for piece in self._predictor.generate(self._memory, question, self._history):
                if isinstance(piece, Answer):
                    seconds = sum(piece.seconds[part] for part in ("first token", "other tokens"))
                    print(f"\n[{seconds:.2f} s]")
                else:
                    said += piece
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print("\n[stopped]")
        self._history += [Message("user", question), Message("assistant", said)]

    def _save(self, name: str) -> None:
        file = Path(name)
        if file.suffix != MEMORY_SUFFIX:
            print(f"give a file that ends in {MEMORY_SUFFIX}, such as :save film{MEMORY_SUFFIX}")
            return
        save_memory(self._predictor, self._memory, file)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")

    def _show_moments(self) -> None:
        if not self._history:
            print("ask something first")
            return
        *earlier, question, answer = self._history
        print(
            format_attribution(
                attribute_answer(self._predictor, self._memory, question.text, answer.text, earlier)
            )
        )


def format_attribution(evidence: Attribution) -> str:
    """The curve over the whole video in one line, and its moments."""
    if not evidence.moments:
        return "no moment stands out"
    columns = [0.0] * min(CURVE_COLUMNS, len(evidence.curve))
    for place, (_, share) in enumerate(evidence.curve):
        column = place * len(columns) // len(evidence.curve)
        columns[column] = max(columns[column], share)
    line = "".join(BARS[round(each / max(columns) * (len(BARS) - 1))] for each in columns)
    moments = [
        f"  {format_timestamp(moment.start_seconds)} to {format_timestamp(moment.end_seconds)}: {moment.share:.0%} of the answer rests on it"
        for moment in evidence.moments
    ]
    return "\n".join([f"|{line}|", *moments])
