"""`lit-hour evaluate` with missing or damaged files, and with settings that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.errors import ConfigError, InputError, QuestionError, ReportError, RunError
from lit_hour.run_dir import RunDir
from tests.evaluation.helpers import custom_questions, run_evaluate


def test_questions_about_missing_and_damaged_videos_are_skipped_within_a_budget(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    videos = Path(shutil.copytree(toy_split / "videos", tmp_path / "videos"))
    first, second = sorted(videos.glob("*.mp4"))
    records = json.loads((toy_split / "questions.json").read_text())
    num_first = sum(record["video"] == first.name for record in records)
    first.write_bytes(first.read_bytes()[:2000])
    overrides = (f"evaluation.questions={toy_split}/questions.json", f"evaluation.videos={videos}")
    with pytest.raises(
        QuestionError,
        match=rf"{num_first} questions cannot be evaluated.*questions=0 (.|\n)*{first.name}",
    ):
        run_evaluate(random_run, tmp_path / "out", *overrides)
    report = run_evaluate(
        random_run, tmp_path / "out", *overrides, f"evaluation.max_skipped_questions={num_first}"
    )
    assert (report.score.num_evaluated, report.score.num_questions) == (
        len(records) - num_first,
        len(records),
    )
    assert (
        all(first.name in reason for reason in report.skipped.values())
        and len(report.skipped) == num_first
    )

    second.unlink()
    with pytest.raises(QuestionError, match=f"{second.name} is in none of"):
        run_evaluate(
            random_run,
            tmp_path / "other",
            *overrides,
            f"evaluation.max_skipped_questions={num_first}",
        )
    shutil.copy(toy_split / "videos" / first.name, first)  # repaired: it is tried again
    repaired = run_evaluate(
        random_run,
        tmp_path / "out",
        *overrides,
        f"evaluation.max_skipped_questions={len(records) - num_first}",
    )
    assert (
        repaired.score.num_evaluated == num_first
        and len(repaired.skipped) == len(records) - num_first
    )


def test_a_question_that_is_too_long_is_skipped_by_name(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    records = json.loads((toy_split / "questions.json").read_text())[:3]
    records[1]["question"] = "Why? " * 400
    (tmp_path / "questions.json").write_text(json.dumps(records))
    overrides = [
        f"evaluation.questions={tmp_path}/questions.json",
        f"evaluation.videos={toy_split}/videos",
    ]
    overrides += [
        "evaluation.max_skipped_questions=1",
        "evaluation.batch_size=3",
        "text.max_tokens=400",
    ]
    report = run_evaluate(random_run, tmp_path / "out", *overrides)
    assert (
        list(report.skipped) == [records[1]["id"]]
        and "text.max_tokens" in report.skipped[records[1]["id"]]
    )
    assert len(report.results) == 2


def test_unusable_settings_are_refused_by_name(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    cases: list[tuple[str, type[InputError], str]] = [
        ("evaluation.questions=", ConfigError, "evaluation.questions is empty"),
        ("evaluation.questions=nowhere/*.json", ConfigError, r"no file nowhere/\*.json"),
        ("evaluation.videos=", ConfigError, "evaluation.videos is empty"),
        ("evaluation.videos=nowhere", ConfigError, "there is no folder nowhere"),
        ("evaluation.benchmark=mvlu", ConfigError, "mlvu"),
        ("evaluation.benchmark=mlvu", QuestionError, "is not a file of MLVU"),
        ("evaluation.subtitles=.", ConfigError, "only Video-MME and LongVideoBench have"),
    ]
    for override, error, message in cases:
        with pytest.raises(error, match=message):
            run_evaluate(random_run, tmp_path / "out", *custom_questions(toy_split), override)


def test_a_missing_run_is_refused(toy_split: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        main(["evaluate", *custom_questions(toy_split), "--run", str(tmp_path / "nowhere")])


def test_a_folder_with_other_files_is_refused(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ReportError, match=r"has thesis\.txt in it and no evaluation"):
        run_evaluate(random_run, tmp_path, *custom_questions(toy_split))


def test_settings_that_no_question_uses_are_refused(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    questions = f"evaluation.questions={toy_split}/questions.json"
    videos = f"evaluation.videos={toy_split}/videos"
    for setting in ("mlvu_rule=mlvu_lmms_eval", "judge=http://127.0.0.1:1/v1"):
        overrides = [questions, videos, f"evaluation.{setting}", "evaluation.judge_model=grader"]
        with pytest.raises(ConfigError, match=rf"evaluation\.{setting}, but .*Leave it out"):
            run_evaluate(random_run, tmp_path / "out", *overrides)
