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

from lit_hour.cli import main
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import InputError, SyntheticDataError
from lit_hour.synthetic.captions import list_events
from lit_hour.synthetic.dataset import build_split
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.video_plan import generate_planned_story, plan_hours
from lit_hour.taxonomy import TASK_OF_KEY
from tests import REPOSITORY

SETTINGS = SyntheticConfig(image_size=32, fps=2)
WORDS = [
    "--hours",
    "0.06",
    "--length",
    "1m-2m",
    "synthetic.image_size=32",
    "synthetic.fps=2",
]
PLANS = plan_hours(0.06, (60.0, 120.0), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    main(["synthesize", str(out), *WORDS])
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A set for a test to change."""
    return shutil.copytree(finished, tmp_path / "set")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def seconds_in(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) / SETTINGS.fps


def test_a_set_has_its_videos_and_what_is_known_about_them(finished: Path):
    stories = [generate_planned_story(plan, SETTINGS) for plan in PLANS]
    assert len(PLANS) > 1
    assert [seconds_in(finished / "videos" / f"{plan.name}.mp4") for plan in PLANS] == [
        plan.duration_seconds for plan in PLANS
    ]
    lines = [json.loads(line) for line in (finished / "captions.jsonl").read_text().splitlines()]
    for line, plan, story in zip(lines, PLANS, stories, strict=True):
        assert (line["video"], line["seed"], line["duration_seconds"]) == (
            f"{plan.name}.mp4",
            story.seed,
            story.duration_seconds,
        )
        assert line["events"] == [asdict(event) for event in list_events(story)]
        assert line["captions"][-1]["end_seconds"] == story.duration_seconds
    totals = json.loads((finished / "totals.json").read_text())
    asked = json.loads((finished / "questions.json").read_text())
    assert (
        sum(totals["num_questions"].values()) == len(asked)
        and set(totals["num_questions"]) <= TASK_OF_KEY.keys()
    )


def test_packing_reads_the_questions_as_they_were_asked(finished: Path):
    read = {
        subject.files[0]: subject.questions
        for subject in read_questions(finished / "questions.json")
    }
    for plan in PLANS:
        assert read[f"{plan.name}.mp4"] == tuple(
            generate_questions(generate_planned_story(plan, SETTINGS), plan.name)
        )


def test_the_words_that_come_next_work(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    out = shutil.copytree(finished, tmp_path / "a set")
    main(["synthesize", str(out), *WORDS])
    printed = capsys.readouterr().out
    assert (
        printed.startswith(f"{out}: {len(PLANS)} videos (")
        and f"to look at: {out}/index.html" in printed
    )
    packing = printed.partition("to pack them: python -m lit_hour ")[2].splitlines()[0]
    small = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    monkeypatch.chdir(REPOSITORY)
    main([*shlex.split(packing), *small])
    assert f"data.sources.NAME.shards={out}/shards" in capsys.readouterr().out
    assert (
        f"data.sources.world.shards='{out}/shards'" in printed
        or f"data.sources.world.shards='{out}'/shards" in printed
    )


def test_a_finished_set_is_left_alone_and_what_is_missing_is_made_again(out: Path):
    before = contents(out)
    times = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    main(["synthesize", str(out), *WORDS])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    (out / "videos" / f"{PLANS[1].name}.mp4").unlink()
    (out / "questions.json").unlink()
    main(["synthesize", str(out), *WORDS])
    assert contents(out) == before
    assert (out / "videos" / f"{PLANS[0].name}.mp4").stat().st_mtime_ns == times[
        out / "videos" / f"{PLANS[0].name}.mp4"
    ]


def test_more_hours_leave_the_first_videos_as_they_are(out: Path):
    before = contents(out)
    main(["synthesize", str(out), "--hours", "0.12", *WORDS[2:]])
    after = contents(out)
    assert all(after[name] == before[name] for name in before if name.endswith(".mp4"))
    assert len({record["video"] for record in json.loads(after["questions.json"])}) > len(PLANS)
    assert after["captions.jsonl"].startswith(before["captions.jsonl"])


def test_a_killed_run_leaves_nothing_half_and_goes_on(tmp_path: Path):
    """Killed with its processes while a video is being written; then the same words finish the set."""
    out = tmp_path / "set"
    words = ["synthesize", str(out), "--hours", "0.25", "--length", "5m-6m", *WORDS[4:]]
    run = subprocess.Popen(
        [sys.executable, "-m", "lit_hour", *words],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    give_up = time.monotonic() + 60
    while not (len(list(out.glob("videos/*.mp4"))) >= 1 and list(out.glob("videos/*.part"))):
        assert run.poll() is None and time.monotonic() < give_up, "it never got so far"
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    finished = list(out.glob("videos/*.mp4"))
    assert all(300 <= seconds_in(path) <= 360 for path in finished)
    assert not any(
        (out / name).exists()
        for name in ("questions.json", "captions.jsonl", "index.html", "totals.json")
    )
    kept = {path: path.read_bytes() for path in finished}
    main(words)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert (
        len(list(out.glob("videos/*.mp4")))
        == json.loads((out / "totals.json").read_text())["num_videos"]
        == 3
    )
    assert not list(out.rglob("*.part"))
    assert len(read_questions(out / "questions.json")) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--hours", "0"], "--hours 0: a set has to have some"),
        (["--hours", "1", "--length", "0s"], "--length 0s: a video of 0 seconds shows nothing"),
        (
            ["--hours", "1", "--length", "5s"],
            r"a story of 5\.0 s cannot be told: its duration has to be at least 10 s",
        ),
        (
            ["--hours", "1", "--tasks", "scene_transitoin"],
            "no task 'scene_transitoin'; did you mean 'scene_transition'",
        ),
        (
            ["--hours", "1", "--length", "10s", "--tasks", "scene_transition"],
            "no material for scene/scene_transition",
        ),
        (["--hours", "1", "synthetic.num_actors=37"], r"a story of 37 figures cannot be told"),
        (
            ["--hours", "1", "synthetic.actions_per_minute=16"],
            r"synthetic\.actions_per_minute=16\.0 is out of range",
        ),
        (["--hours", "1", "--seed", "-1"], r"synthetic\.seed=-1 is out of range"),
        (
            ["--hours", "1", "conf/tiny.yaml", "--tasks", "event_sequence"],
            r"a story of synthetic\.difficulty=easy has no material for event/event_seq",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason_and_nothing_is_written(
    tmp_path: Path, words: list[str], reason: str
):
    words = [str(REPOSITORY / word) if word.endswith(".yaml") else word for word in words]
    with pytest.raises(InputError, match=reason):
        main(["synthesize", str(tmp_path / "set"), *words])
    assert not (tmp_path / "set").exists()


def test_named_tasks_are_asked_about_every_video_and_no_others(tmp_path: Path):
    words = [
        "--hours",
        "0.1",
        "--length",
        "2m",
        "--tasks",
        "object_permanence,event_sequence",
        *WORDS[4:],
    ]
    main(["synthesize", str(tmp_path / "set"), *words])
    for subject in read_questions(tmp_path / "set" / "questions.json"):
        assert {question.task for question in subject.questions} == {
            "object/object_permanence",
            "event/event_sequence",
        }


def test_videos_that_nobody_described_or_badly_are_refused(out: Path):
    (out / "world.json").write_text("{", encoding="utf-8")
    with pytest.raises(SyntheticDataError, match=r"world\.json is damaged"):
        build_split(out, PLANS, SETTINGS, {})
    (out / "world.json").unlink()
    with pytest.raises(SyntheticDataError, match=r"holds videos but no world\.json"):
        build_split(out, PLANS, SETTINGS, {})


def test_the_page_shows_frames_and_charts_and_asks_nobody(finished: Path):
    page = (finished / "index.html").read_text()
    asked = json.loads((finished / "questions.json").read_text())
    assert page.count("data:image/png;base64,") >= len(PLANS) * 8 + 15
    assert page.count("<svg") == 2 and f"{len(asked)} questions on" in page
    assert all(word not in page for word in ("http:", "https:", "<script", "<link", "@import"))
    linked = {part.split('"')[0].split("#")[0] for part in page.split('href="')[1:]}
    assert linked == {f"videos/{plan.name}.mp4" for plan in PLANS}
    for task in {record["task"] for record in asked}:
        assert task in page
