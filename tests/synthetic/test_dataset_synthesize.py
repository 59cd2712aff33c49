"""`lit-hour synthesize`: the files of a set, continuing an interrupted one, and its errors."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import av
import pytest

from lit_hour.cli.main import main
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import InputError, SyntheticDataError
from lit_hour.synthetic.captions import list_events
from lit_hour.synthetic.dataset import DatasetBuild, SplitPlan
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.video_plan import generate_planned_story, plan_hours
from lit_hour.taxonomy import TASK_OF_KEY
from tests import REPOSITORY

SETTINGS = SyntheticConfig(image_size=32, fps=2)
SMALL_VIDEOS = ["synthetic.image_size=32", "synthetic.fps=2"]
ARGUMENTS = ["--hours", "0.06", "--length", "1m-2m", *SMALL_VIDEOS]
PLANS = plan_hours(0.06, (60.0, 120.0), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set that tests must not change."""
    out = tmp_path_factory.mktemp("sets") / "set"
    main(["synthesize", str(out), *ARGUMENTS])
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished set."""
    return shutil.copytree(finished, tmp_path / "set")


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def video_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) / SETTINGS.fps


def test_set_has_the_planned_videos_and_their_ground_truth(finished: Path):
    stories = [generate_planned_story(plan, SETTINGS) for plan in PLANS]
    assert len(PLANS) > 1
    for plan in PLANS:
        video = finished / "videos" / f"{plan.name}.mp4"
        assert video_seconds(video) == plan.duration_seconds
    lines = [json.loads(line) for line in (finished / "captions.jsonl").read_text().splitlines()]
    for line, plan, story in zip(lines, PLANS, stories, strict=True):
        assert line["video"] == f"{plan.name}.mp4"
        assert (line["seed"], line["duration_seconds"]) == (story.seed, story.duration_seconds)
        assert line["events"] == [asdict(event) for event in list_events(story)]
        assert line["captions"][-1]["end_seconds"] == story.duration_seconds
    totals = json.loads((finished / "totals.json").read_text())
    questions = json.loads((finished / "questions.json").read_text())
    assert sum(totals["num_questions"].values()) == len(questions)
    assert set(totals["num_questions"]) <= TASK_OF_KEY.keys()


def test_question_file_reads_back_as_the_generated_questions(finished: Path):
    read = {item.files[0]: item.questions for item in read_questions(finished / "questions.json")}
    for plan in PLANS:
        story = generate_planned_story(plan, SETTINGS)
        assert read[f"{plan.name}.mp4"] == tuple(generate_questions(story, plan.name))


def test_printed_pack_command_works(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    out = shutil.copytree(finished, tmp_path / "a set")
    main(["synthesize", str(out), *ARGUMENTS])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: {len(PLANS)} videos (")
    assert f"preview: {out}/index.html" in printed
    pack_arguments = printed.partition("to pack: lit-hour ")[2].splitlines()[0]
    small = ["video.image_size=32", "video.min_frames=2", "video.max_frames=3"]
    monkeypatch.chdir(REPOSITORY)
    main([*shlex.split(pack_arguments), *small, "pack.num_workers=1"])
    assert f"data.sources.NAME.shards={out}/shards" in capsys.readouterr().out
    train_arguments = shlex.split(printed.partition("to train: python train.py ")[2])
    assert f"data.sources.synthetic.shards={out}/shards" in train_arguments


def test_finished_set_is_unchanged_and_missing_files_are_made_again(out: Path):
    before = read_files(out)
    times = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    main(["synthesize", str(out), *ARGUMENTS])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    kept, removed = (out / "videos" / f"{plan.name}.mp4" for plan in PLANS[:2])
    removed.unlink()
    (out / "questions.json").unlink()
    main(["synthesize", str(out), *ARGUMENTS])
    assert read_files(out) == before
    assert kept.stat().st_mtime_ns == times[kept]


def test_more_hours_keep_the_first_videos(out: Path):
    before = read_files(out)
    main(["synthesize", str(out), "--hours", "0.12", *ARGUMENTS[2:]])
    after = read_files(out)
    assert all(after[name] == before[name] for name in before if name.endswith(".mp4"))
    assert len({record["video"] for record in json.loads(after["questions.json"])}) > len(PLANS)
    assert after["captions.jsonl"].startswith(before["captions.jsonl"])


@pytest.mark.slow
def test_set_continues_after_sigkill_without_partial_files(tmp_path: Path):
    """The run and its workers are killed while they write a video; the same command finishes."""
    out = tmp_path / "set"
    arguments = ["synthesize", str(out), "--hours", "0.25", "--length", "5m-6m", *SMALL_VIDEOS]
    run = subprocess.Popen(
        [sys.executable, "-m", "lit_hour", *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (list(out.glob("videos/*.mp4")) and list(out.glob("videos/*.unfinished"))):
        assert run.poll() is None and time.monotonic() < deadline, "no video was finished in time"
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    finished = list(out.glob("videos/*.mp4"))
    assert all(300 <= video_seconds(path) <= 360 for path in finished)
    assert not (out / "totals.json").exists()
    kept = {path: path.read_bytes() for path in finished}
    main(arguments)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list(out.glob("videos/*.mp4"))) == 3
    assert json.loads((out / "totals.json").read_text())["num_videos"] == 3
    assert not list(out.rglob("*.unfinished"))
    assert len(read_questions(out / "questions.json")) == 3


def test_invalid_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(REPOSITORY)
    hour = ["--hours", "1"]
    for arguments, message in (
        (["--hours", "0"], r"Invalid --hours 0\. Give a number above 0"),
        ([*hour, "--length", "0s"], r"Invalid --length 0s\. A video cannot last 0 seconds"),
        ([*hour, "--length", "5s"], r"a story of 5\.0 s\. Its duration must be at least 10 s"),
        (
            [*hour, "--tasks", "scene_transitoin"],
            r"Unknown task 'scene_transitoin'\. Did you mean 'scene_transition'\?",
        ),
        (
            [*hour, "--length", "10s", "--tasks", "scene_transition"],
            "no material for scene/scene_transition",
        ),
        ([*hour, "synthetic.num_actors=37"], r"Cannot generate a story of 37 figures"),
        ([*hour, "synthetic.actions_per_minute=16"], r"actions_per_minute=16\.0 is out of range"),
        ([*hour, "--seed", "-1"], r"seed=-1 is out of range"),
        (
            [*hour, "conf/tiny.yaml", "--tasks", "event_sequence"],
            r"A story of synthetic\.difficulty=easy has no material for event/event_sequence",
        ),
    ):
        with pytest.raises(InputError, match=message):
            main(["synthesize", str(tmp_path / "set"), *arguments])
        assert not (tmp_path / "set").exists(), arguments


def test_named_tasks_are_asked_about_every_video_and_no_others(tmp_path: Path):
    tasks = {"object/object_permanence", "event/event_sequence"}
    arguments = ["--hours", "0.1", "--length", "2m", *SMALL_VIDEOS]
    arguments += ["--tasks", "object_permanence,event_sequence"]
    main(["synthesize", str(tmp_path / "set"), *arguments])
    for item in read_questions(tmp_path / "set" / "questions.json"):
        assert {question.task for question in item.questions} == tasks


def test_videos_with_a_missing_or_corrupt_generator_record_are_refused(out: Path):
    (out / "generator.json").write_text("{", encoding="utf-8")
    with pytest.raises(SyntheticDataError, match=r"generator\.json is corrupt"):
        DatasetBuild([SplitPlan(out, PLANS, {})], SETTINGS).__enter__()
    (out / "generator.json").unlink()
    with pytest.raises(SyntheticDataError, match=r"holds videos but no generator\.json"):
        DatasetBuild([SplitPlan(out, PLANS, {})], SETTINGS).__enter__()


def test_preview_page_is_self_contained_and_shows_frames_and_charts(finished: Path):
    page = (finished / "index.html").read_text()
    questions = json.loads((finished / "questions.json").read_text())
    assert page.count("data:image/png;base64,") >= len(PLANS) * 8 + 15
    assert page.count("<svg") == 2 and f"{len(questions)} questions on" in page
    for reference in ("http:", "https:", "<script", "<link", "@import"):
        assert reference not in page
    linked = {part.split('"')[0].split("#")[0] for part in page.split('href="')[1:]}
    assert linked == {f"videos/{plan.name}.mp4" for plan in PLANS}
    for task in {record["task"] for record in questions}:
        assert task in page
