"""Videos annotated by an array of jobs of a real SLURM: one is warned, one is killed, and a last
job gathers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.config.videomarathon import FilterConfig, VideoMarathonConfig
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.videomarathon.annotate import annotate
from tests.slurm.cluster import Cluster, Job, wait_until
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.fake_teacher import FakeTeacher

pytestmark = pytest.mark.slow

NUM_VIDEOS, NUM_TASKS = 6, 3
NAMES = [f"{number}.mp4" for number in range(NUM_VIDEOS)]
SETTINGS = VideoMarathonConfig(image_size=32, filters=FilterConfig(blind_trials=2))
WORDS = (
    "videomarathon.image_size=32",
    "videomarathon.filters.blind_trials=2",
    "videomarathon.client.max_concurrent_requests=4",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    render_story(generate_story(0, 120.0), folder / NAMES[0], 32, 1)
    for name in NAMES[1:]:
        (folder / name).symlink_to(folder / NAMES[0])
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer(
        FakeTeacher(dict.fromkeys(NAMES, generate_story(0, 120.0))).answer, delay_seconds=0.1
    ) as server:
        yield server


def submit(cluster: Cluster, output: Path, *options: str, words: tuple[str, ...]) -> str:
    size = ("--partition=main", "--cpus-per-task=1", f"--output={output}")
    return cluster.call(
        "sbatch", "--parsable", *size, *options, "conf/slurm/annotate.sbatch", *words
    )


def process_of(array: str, task: int) -> int:
    """The process that annotates for a task of an array."""
    wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if b"lit_hour" in words and wanted <= set(environment):
            return int(folder.name)
    raise AssertionError(f"task {task} of job {array} does not annotate")


def num_answers(out: Path, task: int) -> int:
    """In the journals of a task's share."""
    journals = [out / "videos" / name / "responses.jsonl" for name in NAMES[task - 1 :: NUM_TASKS]]
    return sum(len(journal.read_bytes().splitlines()) for journal in journals if journal.exists())


def test_an_array_annotates_its_shares_and_a_last_job_gathers(
    cluster: Cluster, videos: Path, server: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (str(videos), str(out), "--teacher", server.url, "--model", "teacher", *WORDS)
    array = submit(cluster, tmp_path / "%A_%a.out", f"--array=1-{NUM_TASKS}", words=words)
    gathering = submit(
        cluster, tmp_path / "gathering.out", f"--dependency=afterany:{array}", words=words
    )
    warned, killed, left_alone = (
        Job(cluster, f"{array}_{task}", tmp_path / f"{array}_{task}.out")
        for task in range(1, NUM_TASKS + 1)
    )
    for task, job in ((1, warned), (2, killed)):
        wait_until(lambda task=task: num_answers(out, task) > 5, f"answers to task {task}")  # type: ignore[misc]
        assert job.facts["JobState"] == "RUNNING"
    cluster.call("scancel", "--batch", "--signal=USR1", warned.number)
    os.kill(process_of(array, 2), signal.SIGKILL)
    wait_until(lambda: killed.facts["JobState"] == "FAILED", "the end of what was killed")
    cluster.call("scontrol", "requeue", killed.number)
    for job, num_restarts in ((warned, "1"), (killed, "1"), (left_alone, "0")):
        job.wait_for_end()
        assert (job.facts["JobState"], job.facts["Restarts"]) == ("COMPLETED", num_restarts), (
            job.output.read_text()
        )
        assert "2 of 2 videos are annotated" in job.output.read_text()
    last = Job(cluster, gathering, tmp_path / "gathering.out").wait_for_end()
    assert (
        last.facts["JobState"] == "COMPLETED" and f"{NUM_VIDEOS} videos" in last.output.read_text()
    )

    keys = [
        each.key for each in server.answered if each.kind != "guess"
    ]  # all videos show the same and have the same guesses
    assert len(keys) - len(set(keys)) <= 2 * 4, (
        "more was asked again than was on its way when two tasks ended"
    )
    whole = tmp_path / "whole"
    annotate(videos, whole, [server.url], "teacher", SETTINGS)
    assert (out / "questions.json").read_bytes() == (whole / "questions.json").read_bytes()
