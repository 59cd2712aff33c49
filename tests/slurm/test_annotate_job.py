"""Videos annotated by a job array of a real SLURM, and aggregated by a last job.

One task is signaled before its time limit, and one is killed.
"""

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
OVERRIDES = (
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


def submit(cluster: Cluster, output: Path, *options: str, argv: tuple[str, ...]) -> str:
    size = ("--partition=main", "--cpus-per-task=1", f"--output={output}")
    return cluster.call(
        "sbatch", "--parsable", *size, *options, "conf/slurm/annotate.sbatch", *argv
    )


def process_of(array: str, task: int) -> int:
    """Return the id of the process that annotates for a task of an array."""
    wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if b"lit_hour" in command and wanted <= set(environment):
            return int(folder.name)
    raise AssertionError(f"task {task} of job {array} does not annotate")


def num_responses(out: Path, task: int) -> int:
    """Count the stored responses of a task's share."""
    files = [out / "videos" / name / "responses.jsonl" for name in NAMES[task - 1 :: NUM_TASKS]]
    return sum(len(file.read_bytes().splitlines()) for file in files if file.exists())


def test_array_annotates_its_shares_and_a_last_job_aggregates(
    cluster: Cluster, videos: Path, server: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    argv = (str(videos), str(out), "--teacher", server.url, "--model", "teacher", *OVERRIDES)
    array = submit(cluster, tmp_path / "%A_%a.out", f"--array=1-{NUM_TASKS}", argv=argv)
    aggregation = submit(
        cluster, tmp_path / "aggregation.out", f"--dependency=afterany:{array}", argv=argv
    )
    signaled, killed, undisturbed = (
        Job(cluster, f"{array}_{task}", tmp_path / f"{array}_{task}.out")
        for task in range(1, NUM_TASKS + 1)
    )
    for task, job in ((1, signaled), (2, killed)):
        wait_until(lambda task=task: num_responses(out, task) > 5, f"responses of task {task}")  # type: ignore[misc]
        assert job.fields["JobState"] == "RUNNING"
    cluster.call("scancel", "--batch", "--signal=USR1", signaled.number)
    os.kill(process_of(array, 2), signal.SIGKILL)
    wait_until(lambda: killed.fields["JobState"] == "FAILED", "the end of the killed task")
    cluster.call("scontrol", "requeue", killed.number)
    for job, num_restarts in ((signaled, "1"), (killed, "1"), (undisturbed, "0")):
        job.wait_for_end()
        assert (job.fields["JobState"], job.fields["Restarts"]) == ("COMPLETED", num_restarts), (
            job.output.read_text()
        )
        assert "2 of 2 videos are annotated" in job.output.read_text()
    last = Job(cluster, aggregation, tmp_path / "aggregation.out").wait_for_end()
    assert (
        last.fields["JobState"] == "COMPLETED" and f"{NUM_VIDEOS} videos" in last.output.read_text()
    )

    # All videos are copies of one, so their blind trials are equal requests and are not counted.
    keys = [request.key for request in server.answered if request.kind != "guess"]
    num_repeated = len(keys) - len(set(keys))
    assert num_repeated <= 2 * 4, "more requests were repeated than two ended tasks had in flight"
    expected = tmp_path / "expected"
    annotate(videos, expected, [server.url], "teacher", SETTINGS)
    assert (out / "questions.json").read_bytes() == (expected / "questions.json").read_bytes()
