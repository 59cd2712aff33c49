"""`lit-hour evaluate` resumed: after a kill, in an earlier folder, under another protocol."""

import signal
from pathlib import Path

import pytest

from lit_hour.errors import ReportError
from lit_hour.evaluation.report.report import read_report
from lit_hour.run_dir import RunDir
from tests.evaluation.helpers import (
    custom_questions,
    die_at_response,
    fork_evaluate,
    num_stored,
    run_evaluate,
)


def test_resume_after_sigkill_with_another_number_of_processes(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    expected = run_evaluate(random_run, tmp_path / "expected", *custom_questions(toy_split))
    killed = fork_evaluate(
        random_run,
        tmp_path / "out",
        custom_questions(toy_split),
        tmp_path,
        num_ranks=2,
        before=die_at_response(3, rank=1),
    )
    assert killed.wait()[1] == -signal.SIGKILL
    answered = num_stored(tmp_path / "out")
    assert 3 <= answered < len(expected.results)
    assert not (tmp_path / "out/report.json").exists()
    again = fork_evaluate(
        random_run, tmp_path / "out", custom_questions(toy_split), tmp_path, num_ranks=1
    )
    assert again.wait() == [0], again.output()
    assert f"{len(expected.results) - answered} questions about" in again.output()
    assert f"({answered} answered before)" in again.output()
    assert num_stored(tmp_path / "out") == len(expected.results)
    assert read_report(tmp_path / "out/report.json") == expected


def test_stored_responses_are_not_generated_again(
    random_run: RunDir, toy_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = run_evaluate(
        random_run, tmp_path / "out", *custom_questions(toy_split, "evaluation.limit=1")
    )
    assert first.score.num_evaluated < first.score.num_questions and "limit=1" in next(
        iter(first.skipped.values())
    )
    second = run_evaluate(random_run, tmp_path / "out", *custom_questions(toy_split))
    assert second.score.num_evaluated == second.score.num_questions == num_stored(tmp_path / "out")
    capsys.readouterr()
    assert run_evaluate(random_run, tmp_path / "out", *custom_questions(toy_split)) == second
    assert "0 questions about 0 videos to evaluate" in capsys.readouterr().out


def test_responses_by_another_protocol_are_refused(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    limited = custom_questions(toy_split, "evaluation.limit=1")
    run_evaluate(random_run, tmp_path / "out", *limited)
    for override in (
        "generation.max_new_tokens=5",
        "video.max_frames=5",
        "evaluation.scoring=loglikelihood",
    ):
        name = override.partition(".")[2].partition("=")[0]
        with pytest.raises(ReportError, match=rf"by another protocol(.|\n)*{name}.*: was .*, is "):
            run_evaluate(random_run, tmp_path / "out", *limited, override)


def test_a_store_of_an_older_format_is_refused_by_name(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    file = tmp_path / "protocol.json"
    file.write_text("{}")  # format 1 wrote no number
    with pytest.raises(ReportError, match=r"protocol\.json has format 1; .*format 2\. .* --out"):
        run_evaluate(random_run, tmp_path, *custom_questions(toy_split))
