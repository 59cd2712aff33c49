"""Questions on the terminal: one answer, or a conversation about one memory.

Entry points: `load_or_encode`, then `print_answer` or `Repl`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.errors import InputError
from lit_hour.inference.answer import Answer
from lit_hour.inference.attribution import Attribution, attribute_answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import MEMORY_SUFFIX, InputFiles, VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Message

HELP = """Type a question. Earlier questions and answers count; Ctrl-C stops an answer.
  :moments    show where in the video the model looked for the last answer
  :reset      start a new conversation about the same video
  :save FILE  save the memory; FILE ends in .safetensors, and `ask FILE` loads it again
  :help       show this help
  :quit       leave; Ctrl-D does too"""
BARS = " ▁▂▃▄▅▆▇█"
CURVE_COLUMNS = 60


@contextmanager
def printed_by_rank_zero(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Drop what the other ranks of a group print, and leave the group at the end."""
    if group is None:
        yield
        return
    with ExitStack() as stack:
        if dist.get_rank(group):
            stack.enter_context(redirect_stdout(io.StringIO()))
        yield
    dist.destroy_process_group()


def load_or_encode(predictor: VideoPredictor, files: InputFiles) -> VideoMemory:
    """Load a saved memory, or encode a video or images with a progress bar.

    Raises:
        InputError: as `VideoPredictor.encode_video` or `load_memory`.
    """
    if files.is_memory:
        return load_memory(predictor, files.paths[0])
    with tqdm(desc="encoding", unit="frame", leave=False, disable=None) as bar:
        return predictor.encode_video(files, bar)


def print_answer(
    predictor: VideoPredictor,
    memory: VideoMemory,
    question: str,
    evidence: bool = False,
    sampling: SamplingParams = GREEDY,
) -> None:
    """Stream an answer to the terminal, then print its cost, and its attribution if `evidence`.

    Raises:
        QuestionError: as `VideoPredictor.generate` or `attribute_answer`.
    """
    for piece in predictor.generate(memory, question, sampling=sampling):
        if isinstance(piece, Answer):
            seconds = ", ".join(
                f"{part.replace('_', ' ')} {seconds:.2f} s"
                for part, seconds in piece.seconds.items()
            )
            num_frames, num_images = piece.num_frames, memory.num_placeholders
            visuals = f"{num_frames} frames" if num_frames else f"images: {num_images}"
            print(f"\n[{visuals}, {piece.num_memory_tokens} tokens in memory; {seconds}]")
            if evidence:
                attribution = attribute_answer(predictor, memory, question, piece.text)
                print(format_attribution(attribution))
        else:
            print(piece, end="", flush=True)


class Repl:
    """Read-eval-print loop: a conversation about one memory, with commands that start with ":"."""

    def __init__(
        self,
        predictor: VideoPredictor,
        memory: VideoMemory,
        read_line: Callable[[str], str] = input,
        sampling: SamplingParams = GREEDY,
    ) -> None:
        """Args: read_line: shows a prompt and returns a line; EOFError ends the conversation."""
        self._predictor, self._memory, self._read_line = predictor, memory, read_line
        self._sampling = sampling
        self._history: list[Message] = []
        self._commands: dict[str, Callable[[str], Any]] = {
            ":moments": lambda _: self._print_moments(),
            ":reset": lambda _: self._history.clear(),
            ":save": self._save,
            ":help": lambda _: print(HELP),
        }

    def run(self) -> None:
        """Answer until the input ends; an error is printed and the conversation continues."""
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
                if line := self._read_line("> ").strip():
                    return line
            except KeyboardInterrupt:
                print("\n:quit or Ctrl-D ends the conversation")

    def _handle(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command in self._commands:
            self._commands[command](argument.strip())
        elif command.startswith(":"):
            print(f"No command {command}. Commands: {', '.join(self._commands)}, :quit")
        else:
            self._generate(line)

    def _generate(self, question: str) -> None:
        """Print an answer; if it is stopped, the part that was generated stays in the history."""
        text = ""
        try:
            pieces = self._predictor.generate(
                self._memory, question, self._history, sampling=self._sampling
            )
            for piece in pieces:
                if isinstance(piece, Answer):
                    seconds = piece.seconds["first_token"] + piece.seconds["other_tokens"]
                    print(f"\n[{seconds:.2f} s]")
                else:
                    text += piece
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print("\n[stopped]")
        self._history += [Message("user", question), Message("assistant", text)]

    def _save(self, name: str) -> None:
        file = Path(name)
        if file.suffix != MEMORY_SUFFIX:
            print(f"Give a file that ends in {MEMORY_SUFFIX}, such as :save film{MEMORY_SUFFIX}")
            return
        save_memory(self._predictor, self._memory, file)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")

    def _print_moments(self) -> None:
        if not self._history:
            print("No answer yet. Ask a question first.")
            return
        *history, question, answer = self._history
        attribution = attribute_answer(
            self._predictor, self._memory, question.text, answer.text, history
        )
        print(format_attribution(attribution))


def format_attribution(attribution: Attribution) -> str:
    """Return a heading, the curve over the video as bars, and one line for each moment."""
    if not attribution.moments:
        return "The model looked at no moment in particular."
    columns = [0.0] * min(CURVE_COLUMNS, len(attribution.curve))
    for index, (_, share) in enumerate(attribution.curve):
        column = index * len(columns) // len(attribution.curve)
        columns[column] = max(columns[column], share)
    bars = [BARS[round(share / max(columns) * (len(BARS) - 1))] for share in columns]
    moments = [
        f"  {format_timestamp(moment.start_seconds)} to {format_timestamp(moment.end_seconds)}:"
        f" {moment.share:.0%} of the attribution"
        for moment in attribution.moments
    ]
    return "\n".join(["Where the model looked:", f"|{''.join(bars)}|", *moments])
