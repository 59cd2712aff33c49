"""Command lines: options, positional arguments, config files and overrides in any order."""

from pathlib import Path

import pytest

from lit_hour.config.arguments import CommandParser, is_override


def parser(**settings: object) -> CommandParser:
    made = CommandParser(
        "program ask",
        "Ask.",
        **{"settings_help": "any setting", "takes_config": True, **settings},  # type: ignore[arg-type]
    )
    made.add_positional("file", type=Path)
    made.add_positional("question", nargs="?")
    made.add_option("--run", type=Path, required=True)
    made.add_option("--also", action="append", default=[])
    return made


def error_of(capsys: pytest.CaptureFixture[str], words: str, **settings: object) -> str:
    with pytest.raises(SystemExit) as end:
        parser(**settings).parse(words.split())
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: program ask")
    return printed.splitlines()[-1].removeprefix("program ask: error: ")


def test_order_of_words_does_not_matter() -> None:
    for words in (
        "--run R -c a.yaml --config b.yaml v.mp4 Why? video.fps=2",
        "v.mp4 --run R Why? video.fps=2 -c a.yaml -c b.yaml",
        "a.yaml video.fps=2 v.mp4 Why? b.yaml --run=R",
    ):
        found = parser().parse(words.split())
        assert (found.file, found.question, found.run) == (Path("v.mp4"), "Why?", Path("R"))
        assert found.config == [Path("a.yaml"), Path("b.yaml")] or "--run=R" in words
        assert sorted(found.config) == [Path("a.yaml"), Path("b.yaml")]
        assert found.overrides == ["video.fps=2"]


def test_parsing_twice_does_not_mix_words() -> None:
    once = parser()
    assert once.parse(["v.mp4", "a.yaml", "--run", "R"]).config == [Path("a.yaml")]
    assert once.parse(["v.mp4", "--run", "R"]).config == []


def test_only_key_value_words_are_overrides(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    for word in ("video.fps=2", "data.sources.my-set.shards=a b=c", "run.name="):
        assert is_override(word), word
    for word in ("Is 1+1=2?", "=3", "--fps=2", "video.fps", "a=b.mp4", "f(x)=2", ""):
        assert not is_override(word), word
    assert is_override("text.system_prompt=" + "x" * 5000)  # longer than a file name may be


def test_words_after_two_dashes_are_positional() -> None:
    found = parser().parse(["--run", "R", "v.mp4", "--", "x=1"])
    assert (found.question, found.overrides) == ("x=1", [])


def test_unknown_option_leads_to_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    for words, meant in (
        ("--run R v.mp4 --fps 2", "video.fps=2"),
        ("--run R v.mp4 --fps=2", "video.fps=2"),
        ("--run R v.mp4 --video.fps 2", "video.fps=2"),
        ("--run R v.mp4 --fps", "video.fps=VALUE"),
        ("--run R v.mp4 --max-frames 9", "video.max_frames=9"),
        ("--run R v.mp4 --max-new-tokens 9", "generation.max_new_tokens=9"),
        ("--run R v.mp4 --world.seed 9", "synthetic.seed=9"),
    ):
        message = error_of(capsys, words)
        assert "Settings are written as key=value: " in message and meant in message, words


def test_unknown_option_leads_to_a_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "--run R v.mp4 --alsoo x").endswith("Did you mean --also?")
    assert error_of(capsys, "--run R v.mp4 --zzz", settings_help="") == "unknown option --zzz"


def test_missing_and_extra_words_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "--run R").endswith("required: file")
    assert error_of(capsys, "v.mp4").endswith("required: --run")
    assert error_of(capsys, "--run R v.mp4 Why? one two") == "unexpected: one two"
    message = error_of(
        capsys, "--run R v.mp4 a b", explain_extra=lambda words, extra: f"{words} {extra}"
    )
    assert message == "['v.mp4', 'a', 'b'] ['b']"


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser(epilog=lambda: "the end").parse(["v.mp4", "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for word in ("usage: program ask", "file", "question", "--run", "-c FILE", "key=value"):
        assert word in printed
    assert printed.endswith("\nthe end\n")
