"""Answers and conversations on the terminal."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_hour.inference.answer import Answer
from lit_hour.inference.ask import Repl, format_attribution, load_or_encode, print_answer
from lit_hour.inference.attribution import Attribution, Moment, attribute_answer
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.inference.video_memory import check_input_files
from lit_hour.types import Message


def keyboard(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Return the given lines one by one, raise the given exceptions, and EOFError at the end."""
    remaining = iter(lines)

    def read_line(prompt: str) -> str:
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def test_earlier_turns_are_part_of_the_prompt_until_reset(
    predictor: VideoPredictor, memory: VideoMemory, capsys: pytest.CaptureFixture
) -> None:
    lines = ("What is shown?", "And then?", ":reset", "And then?")
    Repl(predictor, memory, keyboard(*lines)).run()
    printed = [line for line in capsys.readouterr().out.split("\n") if line]
    *_, first = predictor.generate(memory, "What is shown?")
    assert isinstance(first, Answer)
    turns = (Message("user", "What is shown?"), Message("assistant", first.text))
    for history in ((), turns):
        *_, answer = predictor.generate(memory, "And then?", history)
        assert isinstance(answer, Answer) and answer.text.split("\n")[0] in printed
    assert sum(line.endswith(" s]") for line in printed) == 3


def test_ctrl_c_stops_an_answer_but_not_the_conversation(
    predictor: VideoPredictor,
    memory: VideoMemory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    calls = []

    def generate(
        self: VideoPredictor,
        memory: VideoMemory,
        question: str,
        history: tuple[Message, ...] = (),
        **options: Any,
    ) -> Iterator[str]:
        calls.append((question, [message.text for message in history]))
        yield "half of an "
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPredictor, "generate", generate)
    Repl(predictor, memory, keyboard("First?", KeyboardInterrupt, "Second?")).run()
    assert calls == [("First?", []), ("Second?", ["First?", "half of an "])]
    printed = capsys.readouterr().out
    assert printed.count("[stopped]") == 2 and "Ctrl-D ends" in printed


def test_repl_runs_commands_and_prints_errors(
    predictor: VideoPredictor, memory: VideoMemory, capsys: pytest.CaptureFixture
) -> None:
    lines = (":moments", ":proof", "Why? " * 40_000, "Why?", ":moments", ":help", ":quit", "no")
    Repl(predictor, memory, keyboard(*lines)).run()
    printed = capsys.readouterr().out
    assert "No answer yet." in printed and "No command :proof." in printed
    assert "error: The question does not fit" in printed
    assert "here the model looked:" in printed or "looked at no moment" in printed
    assert printed.count("Type a question.") == 2 and printed.count(" s]") == 1


def test_format_attribution_draws_the_curve_in_one_line() -> None:
    curve = tuple((float(second), 0.0 if second != 30 else 1.0) for second in range(120))
    lines = format_attribution(Attribution((Moment(30.0, 31.0, 1.0),), curve)).split("\n")
    assert lines == [
        "Where the model looked:",
        "|" + " " * 15 + "█" + " " * 44 + "|",
        "  00:30 to 00:31: 100% of the attribution",
    ]
    assert format_attribution(Attribution((), ())) == "The model looked at no moment in particular."


def test_evidence_is_printed_on_request_only(
    predictor: VideoPredictor, memory: VideoMemory, capsys: pytest.CaptureFixture
) -> None:
    print_answer(predictor, memory, "What is shown?")
    plain = capsys.readouterr().out
    assert plain.endswith(" s]\n")
    print_answer(predictor, memory, "What is shown?", evidence=True)
    text, _, rest = capsys.readouterr().out.rpartition(" s]\n")
    *_, answer = predictor.generate(memory, "What is shown?")
    assert isinstance(answer, Answer)
    expected = attribute_answer(predictor, memory, "What is shown?", answer.text)
    assert text.startswith(answer.text) and rest == f"{format_attribution(expected)}\n"


def test_repl_saves_a_memory_that_load_or_encode_loads(
    predictor: VideoPredictor, memory: VideoMemory, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "film.safetensors"
    inside_file = f":save {file}/x.safetensors"
    Repl(predictor, memory, keyboard(":save", ":save film.mp4", f":save {file}", inside_file)).run()
    printed = capsys.readouterr().out
    assert printed.count("Give a file that ends in .safetensors") == 2
    assert f"{file}: 0." in printed and "error: " in printed
    loaded = load_or_encode(predictor, check_input_files([file]))
    assert (loaded.num_frames, loaded.note) == (memory.num_frames, memory.note)
    print_answer(predictor, loaded, "What is shown?")
    *_, answer = predictor.generate(memory, "What is shown?")
    assert isinstance(answer, Answer)
    assert capsys.readouterr().out.startswith(f"{answer.text}\n[6 frames, ")
