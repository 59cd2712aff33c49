"""A trained run and real files, from the command line to the report."""

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
from lit_hour.evaluation.report.report import Report, read_report
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.jsonl import read_journal
from lit_hour.run_dir import RunDir
from tests.evaluation import dressed, layouts
from tests.evaluation.killed import BABBLE, die_at_answer, fork_evaluate, num_answers
from tests.helpers.toy_run import TrainedRun


@pytest.fixture(scope="module")
def world(trained: TrainedRun) -> Path:
    """A folder with two videos of half a minute, and questions about them."""
    return trained.project.yaml.parent / "world/validation"


@pytest.fixture(scope="module")
def choices(world: Path) -> list[dict[str, Any]]:
    return dressed.choices_of(world / "questions.json")


def evaluate(random_run: RunDir, out: Path, *words: str) -> Report:
    """`python -m lit_hour evaluate`."""
    main(["evaluate", BABBLE, *words, "--run", str(random_run.path), "--out", str(out)])
    return read_report(out / "report.json")


def own(world: Path, *words: str) -> list[str]:
    return [
        f"evaluation.questions={world}/questions.json",
        f"evaluation.videos={world}/videos",
        *words,
    ]


def dress(name: str, choices: list[dict[str, Any]], folder: Path) -> str:
    return ", ".join(map(str, layouts.write_all(dressed.dress(name, choices), folder)))


# From end to end


@pytest.mark.parametrize("name", BENCHMARKS)
def test_world_videos_dressed_up_as_each_benchmark(
    random_run: RunDir,
    world: Path,
    choices: list[dict[str, Any]],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    files = dress(name, choices, tmp_path / "questions")
    words = (
        f"evaluation.benchmark={name}",
        f"evaluation.questions={files}",
        f"evaluation.videos={world}/videos",
    )
    report = evaluate(random_run, tmp_path / "out", *words)
    num_questions = (
        len({record["video"] for record in choices}) if name == "egoschema" else len(choices)
    )
    assert (report.benchmark, report.score.num_questions, report.score.num_evaluated) == (
        name,
        num_questions,
        num_questions,
    )
    assert len(report.results) == num_questions and not report.skipped
    truths = {record["answer"] for record in choices}
    assert all(
        any(truth in result.options[result.answer] for truth in truths) for result in report.results
    )
    printed = capsys.readouterr().out
    assert (
        report.summary() in printed
        and f"on {num_questions} of {num_questions} questions" in printed
    )
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6 * len(report.wrong) > 0


def test_every_benchmark_of_the_settings_can_be_read() -> None:
    assert set(get_args(get_type_hints(EvaluationConfig)["benchmark"])) == {"custom", *BENCHMARKS}


def test_the_answers_are_those_of_a_session(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    report = evaluate(random_run, tmp_path / "out", *own(world))
    session = VideoPredictor.from_run(random_run.path, overrides=[BABBLE])
    asked = {record["id"]: record for record in json.loads((world / "questions.json").read_text())}
    assert {result.id for result in report.results} == set(asked)
    for video in sorted({result.video for result in report.results}):
        memory = session.encode_video(world / "videos" / video)
        for result in (each for each in report.results if each.video == video):
            prompt = result.question
            if result.options:
                prompt = "\n".join(
                    [prompt, *result.options.values(), "Answer with one of these options."]
                )
            *_, answer = session.generate(memory, prompt)
            assert result.response == answer.text.strip()
    assert len({result.response for result in report.results}) > 2


def test_several_processes_give_the_same_report(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    alone = evaluate(random_run, tmp_path / "alone", *own(world))
    started = fork_evaluate(random_run, tmp_path / "out", own(world), tmp_path, num_ranks=2)
    assert started.wait() == [0, 0], started.output()
    assert read_report(tmp_path / "out/report.json") == alone
    assert [
        len(read_journal(tmp_path / f"out/answers/{rank:06d}.jsonl")) > 0 for rank in (0, 1)
    ] == [True, True]
    assert "questions about 2 videos" in started.output() and "report:" not in started.output(1)


def test_questions_side_by_side_get_the_same_answers(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    alone = evaluate(random_run, tmp_path / "alone", *own(world))
    together = evaluate(random_run, tmp_path / "together", *own(world, "evaluation.batch_size=5"))
    assert together.results == alone.results
    assert together.protocol["answers"]["batch_size"] == 5


def test_the_protocol_says_how_the_model_was_asked(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    protocol = evaluate(random_run, tmp_path / "out", *own(world, "evaluation.limit=1")).protocol
    assert protocol["frames"]["max_frames"] == 6 and protocol["frames"]["frames"] == "all"
    assert protocol["answers"]["max_new_tokens"] == 6 and protocol["computing"]["device"] == "cpu"
    assert len(protocol["checkpoint"]["SHA-256"]) == 64 and protocol["checkpoint"]["path"].endswith(
        "best.ckpt"
    )
    assert protocol["versions"]["lit_hour"] and protocol["versions"]["torch"]


def test_the_option_that_the_model_would_most_likely_name(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    report = evaluate(random_run, tmp_path / "out", *own(world, "evaluation.scoring=loglikelihood"))
    chosen = [result for result in report.results if result.options]
    assert chosen and all(result.response in result.options.values() for result in chosen)
    assert len({result.chosen for result in chosen}) > 1


@pytest.mark.parametrize("show", ["none", "first"])
def test_baselines_by_a_setting(random_run: RunDir, world: Path, tmp_path: Path, show: str) -> None:
    main(["evaluate", BABBLE, *own(world, f"video.frames={show}"), "--run", str(random_run.path)])
    folder = random_run.path / "evaluation" / f"custom-{show}"
    report = read_report(folder / "report.json")
    assert (
        report.protocol["frames"]["frames"] == show
        and report.score.num_evaluated == report.score.num_questions
    )
    assert len(list((folder / "frames").glob("*/*.jpg"))) == (2 if show == "first" else 0)
    shutil.rmtree(folder.parent)


def test_text_alone_needs_no_videos(random_run: RunDir, world: Path, tmp_path: Path) -> None:
    report = evaluate(
        random_run,
        tmp_path / "out",
        f"evaluation.questions={world}/questions.json",
        "video.frames=none",
    )
    assert report.score.num_evaluated == report.score.num_questions > 0


def test_subtitles_change_what_is_asked(
    random_run: RunDir, world: Path, choices: list[dict[str, Any]], tmp_path: Path
) -> None:
    files = dress("video_mme", choices, tmp_path / "questions")
    (tmp_path / "subtitle").mkdir()
    stem = Path(choices[0]["video"]).stem
    (tmp_path / f"subtitle/{stem}.srt").write_text(
        "1\n00:00:00,000 --> 00:00:30,000\nIt is a red box.\n"
    )
    words = (
        "evaluation.benchmark=video_mme",
        f"evaluation.questions={files}",
        f"evaluation.videos={world}/videos",
    )
    report = evaluate(
        random_run, tmp_path / "out", *words, f"evaluation.subtitles={tmp_path}/subtitle"
    )
    assert set(report.groups["subtitles"]) == {"with", "none published"}
    assert (
        "It is a red box." in report.prompts["first prompt"]
        and report.protocol["answers"]["subtitles"] == "with"
    )


def test_two_reports_are_compared(
    random_run: RunDir, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, words in (("seen", ()), ("blind", ("video.frames=none",))):
        evaluate(random_run, tmp_path / name, *own(world, *words))
    capsys.readouterr()
    main(
        [
            "compare",
            str(tmp_path / "seen"),
            str(tmp_path / "blind/report.json"),
            "--out",
            str(tmp_path / "page.html"),
        ]
    )
    printed = capsys.readouterr().out
    assert (
        "points" in printed
        and "p = " in printed
        and "differences of the protocols: frames.frames\n" in printed
    )
    assert "frames.frames" in (tmp_path / "page.html").read_text(encoding="utf-8")


# Stopped and gone on with


def test_after_kill_9_another_number_of_processes_asks_nothing_twice(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    whole = evaluate(random_run, tmp_path / "whole", *own(world))
    killed = fork_evaluate(
        random_run,
        tmp_path / "out",
        own(world),
        tmp_path,
        num_ranks=2,
        prepare=die_at_answer(3, rank=1),
    )
    assert killed.wait()[1] == -signal.SIGKILL
    answered = num_answers(tmp_path / "out")
    assert 3 <= answered < len(whole.results)
    assert not (tmp_path / "out/report.json").exists()
    again = fork_evaluate(random_run, tmp_path / "out", own(world), tmp_path, num_ranks=1)
    assert again.wait() == [0], again.output()
    assert f"{len(whole.results) - answered} questions about" in again.output()
    assert f"{answered} are answered" in again.output()
    assert num_answers(tmp_path / "out") == len(whole.results)
    assert read_report(tmp_path / "out/report.json") == whole


def test_nothing_is_asked_again(
    random_run: RunDir, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = evaluate(random_run, tmp_path / "out", *own(world, "evaluation.limit=1"))
    assert first.score.num_evaluated < first.score.num_questions and "limit=1" in next(
        iter(first.skipped.values())
    )
    second = evaluate(random_run, tmp_path / "out", *own(world))
    assert second.score.num_evaluated == second.score.num_questions == num_answers(tmp_path / "out")
    capsys.readouterr()
    assert evaluate(random_run, tmp_path / "out", *own(world)) == second
    assert "0 questions about 0 videos to ask" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word",
    ["generation.max_new_tokens=5", "video.max_frames=5", "evaluation.scoring=loglikelihood"],
)
def test_answers_that_were_asked_otherwise_are_not_mixed(
    random_run: RunDir, world: Path, tmp_path: Path, word: str
) -> None:
    evaluate(random_run, tmp_path / "out", *own(world, "evaluation.limit=1"))
    with pytest.raises(
        ReportError,
        match=rf"asked otherwise(.|\n)*{word.partition('.')[2].partition('=')[0]}.*: was .*, is ",
    ):
        evaluate(random_run, tmp_path / "out", *own(world, "evaluation.limit=1", word))


def test_answers_of_an_older_format_are_refused_by_name(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "protocol.json"
    file.write_text("{}")  # format 1 wrote no number
    with pytest.raises(ReportError, match=r"protocol\.json has format 1; .*format 2\. .* --out"):
        evaluate(random_run, tmp_path, *own(world))


# What is missing or damaged


def test_missing_and_damaged_videos_make_a_score_on_a_part(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    videos = Path(shutil.copytree(world / "videos", tmp_path / "videos"))
    first, second = sorted(videos.glob("*.mp4"))
    records = json.loads((world / "questions.json").read_text())
    num_first = sum(record["video"] == first.name for record in records)
    first.write_bytes(first.read_bytes()[:2000])
    words = (f"evaluation.questions={world}/questions.json", f"evaluation.videos={videos}")
    with pytest.raises(
        QuestionError,
        match=rf"{num_first} questions cannot be asked.*max_skipped_questions=0(.|\n)*{first.name}",
    ):
        evaluate(random_run, tmp_path / "out", *words)
    report = evaluate(
        random_run, tmp_path / "out", *words, f"evaluation.max_skipped_questions={num_first}"
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
        evaluate(
            random_run, tmp_path / "other", *words, f"evaluation.max_skipped_questions={num_first}"
        )
    shutil.copy(world / "videos" / first.name, first)  # mended: it is tried again
    mended = evaluate(
        random_run,
        tmp_path / "out",
        *words,
        f"evaluation.max_skipped_questions={len(records) - num_first}",
    )
    assert (
        mended.score.num_evaluated == num_first and len(mended.skipped) == len(records) - num_first
    )


def test_a_question_that_does_not_fit_is_named(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    records = json.loads((world / "questions.json").read_text())[:3]
    records[1]["question"] = "Why? " * 400
    (tmp_path / "questions.json").write_text(json.dumps(records))
    words = [f"evaluation.questions={tmp_path}/questions.json", f"evaluation.videos={world}/videos"]
    words += [
        "evaluation.max_skipped_questions=1",
        "evaluation.batch_size=3",
        "text.max_tokens=400",
    ]
    report = evaluate(random_run, tmp_path / "out", *words)
    assert (
        list(report.skipped) == [records[1]["id"]]
        and "text.max_tokens" in report.skipped[records[1]["id"]]
    )
    assert len(report.results) == 2


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["evaluation.questions="], ConfigError, "evaluation.questions is empty"),
        (["evaluation.questions=nowhere/*.json"], ConfigError, r"there is no file nowhere/\*.json"),
        (["evaluation.videos="], ConfigError, "evaluation.videos is empty"),
        (["evaluation.videos=nowhere"], ConfigError, "there is no folder nowhere"),
        (["evaluation.benchmark=mvlu"], ConfigError, "mlvu"),
        (["evaluation.benchmark=mlvu"], QuestionError, "is no file of MLVU"),
        (["evaluation.subtitles=."], ConfigError, "Video-MME alone"),
    ],
)
def test_settings_that_cannot_be_used(
    random_run: RunDir,
    world: Path,
    tmp_path: Path,
    words: list[str],
    error: type[InputError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(random_run, tmp_path / "out", *own(world), *words)


def test_a_run_that_is_not_there(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        main(["evaluate", *own(world), "--run", str(tmp_path / "nowhere")])


def test_a_folder_of_something_else_is_left_alone(
    random_run: RunDir, world: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ReportError, match=r"holds thesis\.txt and no evaluation"):
        evaluate(random_run, tmp_path, *own(world))
