"""`lit-hour evaluate` and `lit-hour compare`, from the command line to the report."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lit_hour.cli import main
from lit_hour.config.schema import EvaluationConfig
from lit_hour.errors import ConfigError, InputError, QuestionError, ReportError, RunError
from lit_hour.evaluation.load_benchmark import BENCHMARKS
from lit_hour.evaluation.report.report import read_report
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.jsonl import read_jsonl
from lit_hour.run_dir import RunDir
from tests.evaluation import question_files
from tests.evaluation.helpers import (
    SHORT_ANSWERS,
    die_at_response,
    fork_evaluate,
    num_stored,
    run_evaluate,
)
from tests.helpers.toy_run import TrainedRun


@pytest.fixture(scope="module")
def world(trained: TrainedRun) -> Path:
    """A folder with two videos of half a minute, and questions about them."""
    return trained.project.yaml.parent / "world/validation"


@pytest.fixture(scope="module")
def choices(world: Path) -> list[dict[str, Any]]:
    return question_files.choice_records(world / "questions.json")


def custom(world: Path, *overrides: str) -> list[str]:
    return [
        f"evaluation.questions={world}/questions.json",
        f"evaluation.videos={world}/videos",
        *overrides,
    ]


def write_converted(name: str, choices: list[dict[str, Any]], folder: Path) -> str:
    """Write questions in the layout of a benchmark; return the value of evaluation.questions."""
    files = question_files.write_all(question_files.convert(name, choices), folder)
    return ", ".join(map(str, files))


# End to end


@pytest.mark.parametrize("name", BENCHMARKS)
def test_synthetic_videos_in_the_layout_of_each_benchmark(
    random_run: RunDir,
    world: Path,
    choices: list[dict[str, Any]],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    overrides = (
        f"evaluation.benchmark={name}",
        f"evaluation.questions={write_converted(name, choices, tmp_path / 'questions')}",
        f"evaluation.videos={world}/videos",
    )
    report = run_evaluate(random_run, tmp_path / "out", *overrides)
    num_videos = len({record["video"] for record in choices})
    num_questions = num_videos if name == "egoschema" else len(choices)
    assert report.benchmark == name and not report.skipped
    assert report.score.num_questions == report.score.num_evaluated == num_questions
    assert len(report.results) == num_questions
    answers = {record["answer"] for record in choices}
    for result in report.results:
        assert any(answer in result.options[result.answer] for answer in answers), result
    printed = capsys.readouterr().out
    assert report.summary() in printed
    assert f"on {num_questions} of {num_questions} questions" in printed
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6 * len(report.wrong) > 0


def test_the_setting_lists_every_benchmark() -> None:
    assert set(get_args(get_type_hints(EvaluationConfig)["benchmark"])) == {"custom", *BENCHMARKS}


def test_responses_equal_those_of_a_predictor(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    report = run_evaluate(random_run, tmp_path / "out", *custom(world))
    predictor = VideoPredictor.from_run(random_run.path, overrides=[SHORT_ANSWERS])
    records = {
        record["id"]: record for record in json.loads((world / "questions.json").read_text())
    }
    assert {result.id for result in report.results} == set(records)
    for video in sorted({result.video for result in report.results}):
        memory = predictor.encode_video(world / "videos" / video)
        for result in [result for result in report.results if result.video == video]:
            prompt = result.question
            if result.options:
                prompt = "\n".join(
                    [prompt, *result.options.values(), "Answer with one of these options."]
                )
            *_, answer = predictor.generate(memory, prompt)
            assert result.response == answer.text.strip()
    assert len({result.response for result in report.results}) > 2


def test_several_processes_give_the_same_report(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    alone = run_evaluate(random_run, tmp_path / "alone", *custom(world))
    started = fork_evaluate(random_run, tmp_path / "out", custom(world), tmp_path, num_ranks=2)
    assert started.wait() == [0, 0], started.output()
    assert read_report(tmp_path / "out/report.json") == alone
    assert [len(read_jsonl(tmp_path / f"out/answers/{rank:06d}.jsonl")) > 0 for rank in (0, 1)] == [
        True,
        True,
    ]
    assert "questions about 2 videos" in started.output() and "report:" not in started.output(1)


def test_batched_questions_get_the_same_responses(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    alone = run_evaluate(random_run, tmp_path / "alone", *custom(world))
    together = run_evaluate(
        random_run, tmp_path / "together", *custom(world, "evaluation.batch_size=5")
    )
    assert together.results == alone.results
    assert together.protocol["generation"]["batch_size"] == 5


def test_the_protocol_describes_frames_generation_and_versions(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    protocol = run_evaluate(
        random_run, tmp_path / "out", *custom(world, "evaluation.limit=1")
    ).protocol
    assert protocol["frames"]["max_frames"] == 6 and protocol["frames"]["frames"] == "all"
    assert protocol["generation"]["max_new_tokens"] == 6
    assert protocol["compute"]["device"] == "cpu"
    assert len(protocol["checkpoint"]["SHA-256"]) == 64
    assert protocol["checkpoint"]["path"].endswith("best.ckpt")
    assert protocol["versions"]["lit_hour"] and protocol["versions"]["torch"]


def test_loglikelihood_scoring_responds_with_an_option(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    report = run_evaluate(
        random_run, tmp_path / "out", *custom(world, "evaluation.scoring=loglikelihood")
    )
    chosen = [result for result in report.results if result.options]
    assert chosen and all(result.response in result.options.values() for result in chosen)
    assert len({result.chosen for result in chosen}) > 1


@pytest.mark.parametrize("frames", ["none", "first"])
def test_baselines_go_into_folders_of_their_own(
    random_run: RunDir, world: Path, frames: str
) -> None:
    overrides = custom(world, f"video.frames={frames}")
    main(["evaluate", SHORT_ANSWERS, *overrides, "--run", str(random_run.path)])
    folder = random_run.path / "evaluation" / f"custom-{frames}"
    report = read_report(folder / "report.json")
    assert report.protocol["frames"]["frames"] == frames
    assert report.score.num_evaluated == report.score.num_questions
    assert len(list((folder / "frames").glob("*/*.jpg"))) == (2 if frames == "first" else 0)
    shutil.rmtree(folder)


def test_without_frames_no_videos_are_needed(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    report = run_evaluate(
        random_run,
        tmp_path / "out",
        f"evaluation.questions={world}/questions.json",
        "video.frames=none",
    )
    assert report.score.num_evaluated == report.score.num_questions > 0


def test_subtitles_enter_the_prompt(
    random_run: RunDir, world: Path, choices: list[dict[str, Any]], tmp_path: Path
) -> None:
    files = write_converted("video_mme", choices, tmp_path / "questions")
    (tmp_path / "subtitle").mkdir()
    stem = Path(choices[0]["video"]).stem
    (tmp_path / f"subtitle/{stem}.srt").write_text(
        "1\n00:00:00,000 --> 00:00:30,000\nIt is a red box.\n"
    )
    overrides = (
        "evaluation.benchmark=video_mme",
        f"evaluation.questions={files}",
        f"evaluation.videos={world}/videos",
    )
    report = run_evaluate(
        random_run, tmp_path / "out", *overrides, f"evaluation.subtitles={tmp_path}/subtitle"
    )
    assert set(report.groups["subtitles"]) == {"with", "none published"}
    assert (
        "It is a red box." in report.prompts["first prompt"]
        and report.protocol["generation"]["subtitles"] == "with"
    )


def test_compare_two_reports(
    random_run: RunDir, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, overrides in (("all", ()), ("blind", ("video.frames=none",))):
        run_evaluate(random_run, tmp_path / name, *custom(world, *overrides))
    capsys.readouterr()
    main(
        [
            "compare",
            str(tmp_path / "all"),
            str(tmp_path / "blind/report.json"),
            "--out",
            str(tmp_path / "page.html"),
        ]
    )
    printed = capsys.readouterr().out
    assert "points" in printed and "p = " in printed
    assert "differences of the protocols: frames.frames\n" in printed
    assert "frames.frames" in (tmp_path / "page.html").read_text(encoding="utf-8")


# Resumed


def test_resume_after_sigkill_with_another_number_of_processes(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    expected = run_evaluate(random_run, tmp_path / "expected", *custom(world))
    killed = fork_evaluate(
        random_run,
        tmp_path / "out",
        custom(world),
        tmp_path,
        num_ranks=2,
        before=die_at_response(3, rank=1),
    )
    assert killed.wait()[1] == -signal.SIGKILL
    answered = num_stored(tmp_path / "out")
    assert 3 <= answered < len(expected.results)
    assert not (tmp_path / "out/report.json").exists()
    again = fork_evaluate(random_run, tmp_path / "out", custom(world), tmp_path, num_ranks=1)
    assert again.wait() == [0], again.output()
    assert f"{len(expected.results) - answered} questions about" in again.output()
    assert f"({answered} answered before)" in again.output()
    assert num_stored(tmp_path / "out") == len(expected.results)
    assert read_report(tmp_path / "out/report.json") == expected


def test_stored_responses_are_not_generated_again(
    random_run: RunDir, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = run_evaluate(random_run, tmp_path / "out", *custom(world, "evaluation.limit=1"))
    assert first.score.num_evaluated < first.score.num_questions and "limit=1" in next(
        iter(first.skipped.values())
    )
    second = run_evaluate(random_run, tmp_path / "out", *custom(world))
    assert second.score.num_evaluated == second.score.num_questions == num_stored(tmp_path / "out")
    capsys.readouterr()
    assert run_evaluate(random_run, tmp_path / "out", *custom(world)) == second
    assert "0 questions about 0 videos to evaluate" in capsys.readouterr().out


def test_responses_by_another_protocol_are_refused(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    limited = custom(world, "evaluation.limit=1")
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
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "protocol.json"
    file.write_text("{}")  # format 1 wrote no number
    with pytest.raises(ReportError, match=r"protocol\.json has format 1; .*format 2\. .* --out"):
        run_evaluate(random_run, tmp_path, *custom(world))


# Missing and damaged files, and settings that cannot be used


def test_questions_about_missing_and_damaged_videos_are_skipped_within_a_budget(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    videos = Path(shutil.copytree(world / "videos", tmp_path / "videos"))
    first, second = sorted(videos.glob("*.mp4"))
    records = json.loads((world / "questions.json").read_text())
    num_first = sum(record["video"] == first.name for record in records)
    first.write_bytes(first.read_bytes()[:2000])
    overrides = (f"evaluation.questions={world}/questions.json", f"evaluation.videos={videos}")
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
    shutil.copy(world / "videos" / first.name, first)  # repaired: it is tried again
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
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    records = json.loads((world / "questions.json").read_text())[:3]
    records[1]["question"] = "Why? " * 400
    (tmp_path / "questions.json").write_text(json.dumps(records))
    overrides = [
        f"evaluation.questions={tmp_path}/questions.json",
        f"evaluation.videos={world}/videos",
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
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    cases: list[tuple[str, type[InputError], str]] = [
        ("evaluation.questions=", ConfigError, "evaluation.questions is empty"),
        ("evaluation.questions=nowhere/*.json", ConfigError, r"no file nowhere/\*.json"),
        ("evaluation.videos=", ConfigError, "evaluation.videos is empty"),
        ("evaluation.videos=nowhere", ConfigError, "there is no folder nowhere"),
        ("evaluation.benchmark=mvlu", ConfigError, "mlvu"),
        ("evaluation.benchmark=mlvu", QuestionError, "is not a file of MLVU"),
        ("evaluation.subtitles=.", ConfigError, "only Video-MME has"),
    ]
    for override, error, message in cases:
        with pytest.raises(error, match=message):
            run_evaluate(random_run, tmp_path / "out", *custom(world), override)


def test_a_missing_run_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        main(["evaluate", *custom(world), "--run", str(tmp_path / "nowhere")])


def test_a_folder_with_other_files_is_refused(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ReportError, match=r"has thesis\.txt in it and no evaluation"):
        run_evaluate(random_run, tmp_path, *custom(world))
