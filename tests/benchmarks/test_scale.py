"""`python -m tests.benchmarks.scale`: a quick rehearsal, limits, and the file that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks.scale.__main__ import TITLES, main
from tests.benchmarks.scale.measured import run_limited
from tests.benchmarks.scale.report import write_section
from tests.benchmarks.scale.setup import Job

GIGABYTE = 1_000_000_000


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_layers_answer_and_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--layers", "2", "--frames", "64", "--train-frames", "16", "--tokens", "2"]
    parts = ["--parts", "answer", "train-lora"]
    assert main(["3b", *sizes, *parts, "--folder", str(tmp_path)]) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    for part in parts[1:]:
        assert f"### {TITLES[part]}" in printed
    assert printed.count("| run with two steps |") == 1
    rows = re.findall(r"^\| (\w+ question: [^|]+) \|", printed, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 6
    assert "Not finished" not in printed and not (tmp_path / "published").exists()
    # the run is there now; a limit of memory that it exceeds ends the process
    job = Job("3b", str(tmp_path), num_frames=64, num_layers=2)
    module = "tests.benchmarks.scale.answer"
    ended = run_limited(module, [job.to_json()], 2 * GIGABYTE, 1, timeout_seconds=120)
    assert ended.failure == "it needs more than 2.0 GB" and not ended.parts


def test_slow_process_is_stopped() -> None:
    ended = run_limited("http.server", ["0"], 10 * GIGABYTE, 1, timeout_seconds=0.5)
    assert ended.failure == "stopped after 0 s" and not ended.parts


def test_section_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "SCALE.md"
    for section in ("## 7b\n\nfirst\n", "## 3b\n\nsecond\n\n### more\n", "## 7b\n\nthird\n"):
        write_section(section, file)
    text = file.read_text()
    assert text.startswith("# Published sizes") and text.count("# Published sizes") == 1
    assert "first" not in text
    assert text.endswith("## 3b\n\nsecond\n\n### more\n\n## 7b\n\nthird\n")


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["5b"], ["3b", "--frames", "0"], ["3b", "--parts", "nothing"]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
    assert "0 is not positive" in capsys.readouterr().err
    assert main(["3b", "--folder", "/dev/null/no"]) == 2
    assert "/dev/null/no cannot be made (Not a directory)" in capsys.readouterr().err
