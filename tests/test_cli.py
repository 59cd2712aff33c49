"""The command lines of `lit-hour` and `train.py`: arguments, help, errors, and what they print."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from PIL import Image

import lit_hour
import train
from lit_hour.cli.main import COMMANDS, EXTRAS, main
from lit_hour.errors import ConfigError, InputError
from tests import REPOSITORY
from tests.helpers.toy_run import TrainedRun


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    """Start a process as a user does."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the last line that a command with wrong arguments prints."""
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: lit-hour")
    return printed.splitlines()[-1].partition("error: ")[2]


# train.py


def test_overrides_win_over_files_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "my=run.yaml"
    file.write_text("training: {max_steps: 5}\n")
    for words in (
        [str(file), "run.seed=3"],
        ["run.seed=3", str(file)],
        ["-c", str(file), "run.seed=3"],
        ["run.seed=3", f"--config={file}"],
    ):
        config = train.load_settings(words)
        assert (config.run.seed, config.training.max_steps) == (3, 5)
    assert train.load_settings([str(file), "training.max_steps=9"]).training.max_steps == 9


def test_training_loads_its_default_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert train.load_settings([]).run.name == "tiny"


def test_later_files_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("run: {name: a, seed: 1}\n")
    second.write_text("run: {name: b}\n")
    config = train.load_settings(["-c", str(first), "-c", str(second)])
    assert (config.run.name, config.run.seed) == ("b", 1)


def test_word_that_is_not_a_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        (["training.max_steps", "5"], "training.max_steps is neither a .yaml file nor key=value"),
        (["conf/tiny"], "conf/tiny is neither a .yaml file nor key=value"),
        (
            ["--max-steps", "5"],
            "unknown option --max-steps. Settings are written as key=value: training.max_steps=5",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            train.main(words)
        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f"error: {reason}\n")
    for words, message in (
        (["none.yaml"], r"Config file not found: none\.yaml"),
        (["training.max_step=5"], r"'training\.max_step' .*'training\.max_steps'"),
        (["training.max_steps=many"], r"training\.max_steps=many .*a whole number"),
        (["data.global_batch_size=0"], r"data\.global_batch_size=0 .*at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            train.main(words)


def test_missing_gpu_is_named_before_a_video_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", lambda: 0)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)
    words = [f"run.folder={tmp_path / 'runs'}", f"synthetic.folder={tmp_path / 'videos'}"]
    with pytest.raises(ConfigError, match="PyTorch finds no GPU here"):
        train.main(["-c", train.DEFAULT_CONFIG, "training.accelerator=gpu", *words])
    assert not list(tmp_path.iterdir())


def test_help_of_training_lists_every_setting_without_importing_torch() -> None:
    code = (
        "import sys, train\n"
        "try: train.main(['--help'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout.startswith("usage: python train.py [-h] [-c FILE] [key=value ...]")
    for line in (
        "training.max_steps=0  [steps, at least 0]",
        "data.sources.NAME.shards=...  [required]",
    ):
        assert line in done.stdout


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
        "  object recognition accuracy",
        "  object attribute accuracy",
        "  scene recognition accuracy",
        "  accuracy by video length and depth: nothing to draw",
        "what to try next:",
    ]
    assert [
        start for line, start in zip(lines, starts, strict=False) if line.startswith(start)
    ] == starts


# lit-hour


def test_invalid_input_is_one_line_without_a_traceback_or_torch() -> None:
    for words, message in (
        (["train.py", "training.max_step=5"], "'training.max_steps'"),
        (["-m", "lit_hour", "pack", "a", "b", "c", "pack.workers=1"], "'pack.num_workers'"),
    ):
        done = run_python("-X", "importtime", *words)
        error = [line for line in done.stderr.splitlines() if "import time:" not in line]
        assert done.returncode == 1 and done.stdout == ""
        assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
        assert not re.search(r"\| +torch$", done.stderr, flags=re.MULTILINE)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        (["--help"], tuple(COMMANDS)),
        *((["-h"], (name, command.help)) for name, command in COMMANDS.items()),
        *(([name, "--help"], (f"usage: lit-hour {name} ",)) for name in COMMANDS),
        (["ask", "--help"], ("--run", "--checkpoint", "--device", "key=value")),
        (["--version"], (f"lit-hour {lit_hour.__version__}",)),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert all(text in printed for text in shown), words


def test_wrong_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a command is missing" in usage_error(capsys)
    assert usage_error(capsys, "pakc", "a") == "unknown command pakc. Did you mean pack?"
    assert usage_error(capsys, "encode", "a", "b") == "encode was renamed to extract-features"


def test_wrong_arguments_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        ("ask", "the following arguments are required: --run"),
        ("ask --run x", "the following arguments are required: file"),
        ("ask a.mp4 What? --run x --fast", "unknown option --fast"),
        ("import q.json --videos V", "the following arguments are required: out"),
        ("compare a b c", "unexpected: c"),
        ("ask a.mp4 What is it? --run x", 'put the question in quotes: "What is it?"'),
        ("serve --run x --port 80000", "argument --port: 80000 must be a port from 0 to 65535"),
        ("serve --run x --port web", "argument --port: web must be a port from 0 to 65535"),
        ("ask a.mp4 --run x --device gpu", "argument --device: gpu must be cpu, cuda or cuda:N"),
        (
            "ask a.mp4 --run x --device cuda:",
            "argument --device: cuda: must be cpu, cuda or cuda:N",
        ),
    ):
        assert usage_error(capsys, *words.split()) == reason
    assert usage_error(capsys, "ask", "a.mp4", "b.mp4", "What is it?", "--run", "x").startswith(
        "one video at a time: a.mp4 and b.mp4 take two commands."
    )


def test_missing_optional_library_is_answered_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "lit_hour.server.app", raising=False)
    with pytest.raises(
        InputError,
        match=r"^uvicorn is not installed\. Run pip install '\.\[serve\]' in a checkout",
    ):
        main(["serve", "--run", "none"])
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    required_by = {"starlette": "fastapi", "pydantic": "fastapi"}
    for library, extra in EXTRAS.items():
        name = required_by.get(library, library).replace("_", "-")
        requirements = project["optional-dependencies"][extra]
        assert any(line.replace("_", "-").startswith(name) for line in requirements)


def test_evidence_of_an_image_is_refused_before_the_run_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(file)
    with pytest.raises(InputError, match=r"^--evidence shows moments of a video, but .*red\.png"):
        main(["ask", str(file), "What is it?", "--run", "none", "--evidence"])


def test_pack_prints_a_summary_and_the_next_step(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = trained.project.yaml.parent / "world/validation"
    out = tmp_path / "shards"
    overrides = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    main(["pack", str(split / "videos"), str(split / "questions.json"), str(out), *overrides])
    printed = capsys.readouterr().out
    assert f"{out}: 1 shards with 2 videos" in printed and "6 frames" in printed
    assert f"data.sources.NAME.shards={out}" in printed
