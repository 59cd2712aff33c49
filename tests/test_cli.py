import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from lit_hour.cli import main
from lit_hour.config.load import parse_command_line
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from tests import REPOSITORY
from tests.helpers.toy_run import TrainedRun


def run_python(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process as a user starts it, and how many seconds it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, time.perf_counter() - started


# Words -> settings


def test_words_win_over_the_file_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "my=run.yaml"
    file.write_text("training: {max_steps: 5}\n")
    for words in ([str(file), "run.seed=3"], ["run.seed=3", str(file)]):
        config = parse_command_line(words)
        assert (config.run.seed, config.training.max_steps) == (3, 5)
    assert parse_command_line([str(file), "training.max_steps=9"]).training.max_steps == 9


def test_without_a_file_the_default_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("run: {name: default}\n")
    assert parse_command_line(["run.seed=3"], str(file)).run.name == "default"
    assert parse_command_line([]) == Config()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["training.max_steps", "5"],
            r"'training\.max_steps' is neither a \.yaml file nor a setting: settings are written as key=value",
        ),
        (["--max-steps"], r"'--max-steps' is neither .*settings are written as key=value"),
        (["conf/tiny"], r"'conf/tiny' is neither a \.yaml file nor a setting"),
        (["a.yaml", "b.yaml"], r"one config file at most, not a\.yaml and b\.yaml"),
        (["none.yaml"], r"no such config file: none\.yaml"),
        (
            ["training.max_step=5"],
            r"no setting 'training\.max_step' .*did you mean 'training\.max_steps'\?",
        ),
        (["training.max_steps=many"], r"training\.max_steps=many .*has to be a whole number"),
        (
            ["data.global_batch_size=0"],
            r"data\.global_batch_size=0 is out of range: it has to be at least 1",
        ),
    ],
)
def test_a_word_that_is_no_setting_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_command_line(words)


# The two programs


def test_help_of_training_lists_every_setting_at_once_and_without_torch() -> None:
    code = "import sys, train; train.main(['--help']); sys.exit(('torch' in sys.modules) * 3)"
    done, _ = run_python("-c", code)
    assert done.returncode == 0
    _, seconds = run_python("train.py", "--help")
    assert seconds < 2
    assert "python train.py [conf/NAME.yaml] [key=value ...]" in done.stdout
    for line in (
        "training.max_steps=0  [steps, at least 0]",
        "data.sources.NAME.shards=...  [has to be given]",
    ):
        assert line in done.stdout
    assert "the schema's defaults" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train.py", "training.max_step=5"],
            r"error: no setting 'training\.max_step' .*did you mean 'training\.max_steps'\?\n",
        ),
        (
            ["-m", "lit_hour", "pack", "a", "b", "c", "pack.workers=1"],
            r"error: no setting 'pack\.workers' .*did you mean .*\n",
        ),
    ],
)
def test_an_error_is_one_line_without_a_traceback(words: list[str], message: str) -> None:
    done, _ = run_python(*words)
    assert done.returncode == 1
    assert re.fullmatch(message, done.stderr)
    assert done.stdout == ""


def test_training_prints_what_it_does_and_where_it_ended(trained: TrainedRun) -> None:
    lines = [
        line
        for line in trained.output.splitlines()
        if not re.match("(training|validating):|$", line)
    ]
    starts = [
        "run ",
        "data: ",
        "model: ",
        f"{trained.run.path}: step",
        "  multiple choice accuracy",
        "  open ended accuracy",
        "what to try next:",
    ]
    assert [
        start for line, start in zip(lines, starts, strict=False) if line.startswith(start)
    ] == starts


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        (["--help"], ("pack", "ask")),
        (["ask", "--help"], ("--run", "--checkpoint", "--device", "key=value")),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert printed.startswith("usage: python -m lit_hour") and all(
            word in printed for word in shown
        )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sing"],
        ["ask"],
        ["ask", "a.mp4", "What?", "--run", "x", "--fast"],
        ["ask", "a", "b", "--run", "x", "y"],
    ],
)
def test_words_that_no_verb_takes_show_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: python -m lit_hour" in capsys.readouterr().err


def test_packing_says_what_was_packed_and_what_to_do_with_it(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = trained.project.yaml.parent / "world/validation"
    out = tmp_path / "shards"
    settings = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    main(["pack", str(split / "videos"), str(split / "questions.json"), str(out), *settings])
    printed = capsys.readouterr().out
    assert f"{out}: 1 shards with 2 videos" in printed and "6 frames" in printed
    assert f"data.sources.NAME.shards={out}" in printed


def test_training_from_the_command_line_takes_its_default_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert parse_command_line([], train.DEFAULT_CONFIG).run.name == "tiny"
