"""`lit-hour evaluate` and `lit-hour compare`, from the command line to the report."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lit_hour.cli.main import main
from lit_hour.config.schema import EvaluationConfig
from lit_hour.evaluation.load_benchmark import BENCHMARKS, GROUNDING_BENCHMARKS, TEST_BENCHMARKS
from lit_hour.evaluation.report.report import read_report
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.jsonl import read_jsonl
from lit_hour.run_dir import RunDir
from tests.evaluation.helpers import (
    SHORT_ANSWERS,
    custom_questions,
    fork_evaluate,
    run_evaluate,
    write_converted,
)
from tests.helpers.toy_run import TrainedRun
from tests.videomarathon.chat_server import ChatServer


@pytest.mark.parametrize("name", BENCHMARKS)
def test_synthetic_videos_in_the_layout_of_each_benchmark(
    random_run: RunDir,
    toy_split: Path,
    choice_records: list[dict[str, Any]],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    overrides = (
        f"evaluation.benchmark={name}",
        f"evaluation.questions={write_converted(name, choice_records, tmp_path / 'questions')}",
        f"evaluation.videos={toy_split}/videos",
    )
    report = run_evaluate(random_run, tmp_path / "out", *overrides)
    num_videos = len({record["video"] for record in choice_records})
    num_questions = num_videos if name == "egoschema" else len(choice_records)
    assert report.benchmark == name and not report.skipped
    assert report.score.num_questions == report.score.num_evaluated == num_questions
    assert len(report.results) == num_questions
    answers = {record["answer"] for record in choice_records}
    for result in report.results:
        assert any(answer in result.options[result.answer] for answer in answers), result
    printed = capsys.readouterr().out
    assert report.summary() in printed
    assert f"on {num_questions} of {num_questions} questions" in printed
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6 * len(report.wrong) > 0


@pytest.mark.slow
def test_generation_tasks_are_judged_after_all_responses(
    random_run: RunDir, toy_split: Path, choice_records: list[dict[str, Any]], tmp_path: Path
) -> None:
    record = {**choice_records[0], "duration": 30.0, "question_type": "summary", "answer": "A day"}
    file = tmp_path / "9_summary.json"
    file.write_text(json.dumps([record]))
    overrides = (
        "evaluation.benchmark=mlvu",
        f"evaluation.questions={file}",
        f"evaluation.videos={toy_split}/videos",
    )
    report = run_evaluate(random_run, tmp_path / "out", *overrides)
    assert len(report.needs_judge) == 1 and not report.metrics and "judge" not in report.protocol
    with ChatServer(lambda body: "score_completeness: 2, score_reliability: 4") as chat:
        judge = (f"evaluation.judge={chat.url}", "evaluation.judge_model=grader")
        judged = run_evaluate(random_run, tmp_path / "out", *overrides, *judge)
    assert judged.results[0].scores["total"] == 6.0 and not judged.needs_judge
    assert judged.protocol["judge"]["model"] == "grader"
    assert judged.results[0].response == report.results[0].response


@pytest.mark.slow
def test_a_set_without_public_answers_gives_a_submission(
    random_run: RunDir,
    toy_split: Path,
    choice_records: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    write_converted("egoschema", choice_records, tmp_path / "questions")
    report = run_evaluate(
        random_run,
        tmp_path / "out",
        "evaluation.benchmark=egoschema_test",
        f"evaluation.questions={tmp_path}/questions/questions.json",
        f"evaluation.videos={toy_split}/videos",
    )
    lines = (tmp_path / "out/submission.csv").read_text().splitlines()
    assert lines[0] == "q_uid,answer" and len(lines) == 1 + len(report.results)
    assert report.score.num_questions == 0 and not report.wrong
    printed = capsys.readouterr().out
    assert f"{len(report.results)} responses to questions without public answers" in printed
    assert f"submission: {tmp_path}/out/submission.csv" in printed


@pytest.mark.slow
def test_a_copy_of_a_training_video_is_reported(
    trained: TrainedRun, toy_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train_split = toy_split.parent / "train"
    shutil.copytree(train_split / "videos", tmp_path / "videos")
    overrides = (f"evaluation.questions={train_split}/questions.json", "evaluation.limit=1")
    report = run_evaluate(
        trained.run, tmp_path / "out", *overrides, f"evaluation.videos={tmp_path}/videos"
    )
    assert report.num_seen == len(report.results) > 0 and report.not_compared == {}
    assert "questions about videos that the run was trained on" in capsys.readouterr().out
    unseen = custom_questions(toy_split, "evaluation.limit=1")
    assert run_evaluate(trained.run, tmp_path / "other", *unseen).num_seen == 0


def test_the_setting_lists_every_benchmark() -> None:
    names = get_args(get_type_hints(EvaluationConfig)["benchmark"])
    assert set(names) == {"custom", *BENCHMARKS, *TEST_BENCHMARKS, *GROUNDING_BENCHMARKS}


def test_responses_equal_those_of_a_predictor(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    report = run_evaluate(random_run, tmp_path / "out", *custom_questions(toy_split))
    predictor = VideoPredictor.from_run(random_run.path, overrides=[SHORT_ANSWERS])
    records = {
        record["id"]: record for record in json.loads((toy_split / "questions.json").read_text())
    }
    assert {result.id for result in report.results} == set(records)
    for video in sorted({result.video for result in report.results}):
        memory = predictor.encode_video(toy_split / "videos" / video)
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
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    alone = run_evaluate(random_run, tmp_path / "alone", *custom_questions(toy_split))
    started = fork_evaluate(
        random_run, tmp_path / "out", custom_questions(toy_split), tmp_path, num_ranks=2
    )
    assert started.wait() == [0, 0], started.output()
    assert read_report(tmp_path / "out/report.json") == alone
    assert [len(read_jsonl(tmp_path / f"out/answers/{rank:06d}.jsonl")) > 0 for rank in (0, 1)] == [
        True,
        True,
    ]
    assert "questions about 2 videos" in started.output() and "report:" not in started.output(1)


def test_batched_questions_get_the_same_responses(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    alone = run_evaluate(random_run, tmp_path / "alone", *custom_questions(toy_split))
    together = run_evaluate(
        random_run, tmp_path / "together", *custom_questions(toy_split, "evaluation.batch_size=5")
    )
    assert together.results == alone.results
    assert together.protocol["generation"]["batch_size"] == 5


def test_the_protocol_describes_frames_generation_and_versions(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    protocol = run_evaluate(
        random_run, tmp_path / "out", *custom_questions(toy_split, "evaluation.limit=1")
    ).protocol
    assert protocol["frames"]["max_frames"] == 6 and protocol["frames"]["frames"] == "all"
    assert protocol["generation"]["max_new_tokens"] == 6
    assert protocol["compute"]["device"] == "cpu"
    assert len(protocol["checkpoint"]["SHA-256"]) == 64
    assert protocol["checkpoint"]["path"].endswith("best.ckpt")
    assert protocol["versions"]["lit_hour"] and protocol["versions"]["torch"]


def test_loglikelihood_scoring_responds_with_an_option(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    report = run_evaluate(
        random_run,
        tmp_path / "out",
        *custom_questions(toy_split, "evaluation.scoring=loglikelihood"),
    )
    chosen = [result for result in report.results if result.options]
    assert chosen and all(result.response in result.options.values() for result in chosen)
    assert len({result.chosen for result in chosen}) > 1


@pytest.mark.parametrize("frames", ["none", "first"])
def test_baselines_go_into_folders_of_their_own(
    random_run: RunDir, toy_split: Path, frames: str
) -> None:
    overrides = custom_questions(toy_split, f"video.frames={frames}")
    main(["evaluate", SHORT_ANSWERS, *overrides, "--run", str(random_run.path)])
    folder = random_run.path / "evaluation" / f"custom-{frames}"
    report = read_report(folder / "report.json")
    assert report.protocol["frames"]["frames"] == frames
    assert report.score.num_evaluated == report.score.num_questions
    assert len(list((folder / "frames").glob("*/*.jpg"))) == (2 if frames == "first" else 0)
    shutil.rmtree(folder)


def test_without_frames_no_videos_are_needed(
    random_run: RunDir, toy_split: Path, tmp_path: Path
) -> None:
    report = run_evaluate(
        random_run,
        tmp_path / "out",
        f"evaluation.questions={toy_split}/questions.json",
        "video.frames=none",
    )
    assert report.score.num_evaluated == report.score.num_questions > 0


def test_subtitles_enter_the_prompt(
    random_run: RunDir, toy_split: Path, choice_records: list[dict[str, Any]], tmp_path: Path
) -> None:
    files = write_converted("video_mme", choice_records, tmp_path / "questions")
    (tmp_path / "subtitle").mkdir()
    stem = Path(choice_records[0]["video"]).stem
    (tmp_path / f"subtitle/{stem}.srt").write_text(
        "1\n00:00:00,000 --> 00:00:30,000\nIt is a red box.\n"
    )
    overrides = (
        "evaluation.benchmark=video_mme",
        f"evaluation.questions={files}",
        f"evaluation.videos={toy_split}/videos",
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
    random_run: RunDir, toy_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, overrides in (("all", ()), ("blind", ("video.frames=none",))):
        run_evaluate(random_run, tmp_path / name, *custom_questions(toy_split, *overrides))
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
