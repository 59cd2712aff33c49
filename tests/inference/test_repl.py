from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_hour.inference.attribution import Attribution, Moment
from lit_hour.inference.predictor import Answer, VideoMemory, VideoPredictor
from lit_hour.inference.repl import Repl, format_attribution, load_or_encode, print_answer
from lit_hour.types import Message


def typed(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """A keyboard: lines, or what the keys Ctrl-C and Ctrl-D raise; in the end Ctrl-D."""
    left = iter(lines)

    def read(prompt: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def test_questions_are_answered_with_what_was_said_before(
    predictor: VideoPredictor, memory: VideoMemory, capsys: pytest.CaptureFixture
) -> None:
    Repl(predictor, memory, typed("What is shown?", "And then?", ":forget", "And then?")).run()
    said = [line for line in capsys.readouterr().out.split("\n") if line]
    *_, first = predictor.generate(memory, "What is shown?")
    assert isinstance(first, Answer)
    history = (Message("user", "What is shown?"), Message("assistant", first.text))
    for earlier in ((), history):
        *_, answer = predictor.generate(memory, "And then?", earlier)
        assert isinstance(answer, Answer) and answer.text.split("\n")[0] in said
    assert sum(line.endswith(" s]") for line in said) == 3


def test_ctrl_c_stops_an_answer_and_not_the_conversation(
    predictor: VideoPredictor,
    memory: VideoMemory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    asked = []

    def ask(
        self: VideoPredictor, memory: VideoMemory, question: str, history: tuple[Message, ...] = ()
    ) -> Iterator[str]:
        asked.append((question, [message.text for message in history]))
        yield "half of an "
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPredictor, "generate", ask)
    Repl(predictor, memory, typed("First?", KeyboardInterrupt, "Second?")).run()
    assert asked == [("First?", []), ("Second?", ["First?", "half of an "])]
    printed = capsys.readouterr().out
    assert printed.count("[stopped]") == 2 and "Ctrl-D ends" in printed


def test_evidence_errors_and_unknown_commands(
    predictor: VideoPredictor, memory: VideoMemory, capsys: pytest.CaptureFixture
) -> None:
    Repl(
        predictor,
        memory,
        typed(":evidence", ":proof", "Why? " * 40_000, "Why?", ":evidence", ":help", ":quit", "no"),
    ).run()
    printed = capsys.readouterr().out
    assert (
        "ask something first" in printed
        and "there is no :proof" in printed
        and "error: the question does not fit" in printed
    )
    assert "of the answer rests on it" in printed or "no moment stands out" in printed
    assert printed.count("Ask something.") == 2 and printed.count(" s]") == 1


def test_a_curve_in_one_line() -> None:
    curve = tuple((float(second), 0.0 if second != 30 else 1.0) for second in range(120))
    lines = format_attribution(Attribution((Moment(30.0, 31.0, 1.0),), curve)).split("\n")
    assert lines == [
        "|" + " " * 15 + "█" + " " * 44 + "|",
        "  00:30 to 00:31: 100% of the answer rests on it",
    ]
    assert format_attribution(Attribution((), ())) == "no moment stands out"


def test_a_memory_is_saved_and_gone_on_with(
    predictor: VideoPredictor, memory: VideoMemory, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "film.safetensors"
    Repl(
        predictor,
        memory,
        typed(
            ":save",
            ":save film.mp4",
            f":save {file}",
            f":save {tmp_path}/film.safetensors/x.safetensors",
        ),
    ).run()
    printed = capsys.readouterr().out
    assert printed.count("give a file that ends in .safetensors") == 2
    assert f"{file}: 0." in printed and "error: " in printed
    again = load_or_encode(predictor, [file])
    assert (again.num_frames, again.note) == (memory.num_frames, memory.note)
    print_answer(predictor, again, "What is shown?")
    *_, answer = predictor.generate(memory, "What is shown?")
    assert isinstance(answer, Answer)
    assert capsys.readouterr().out.startswith(f"{answer.text}\n[6 frames, ")
