"""Signals, cancellation, kills and requeueing under a real SLURM do not change the weights."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.toy_run import ToyProject, load_weights, max_abs_difference
from tests.slurm.cluster import Cluster, Job, wait_until

pytestmark = pytest.mark.slow

NUM_STEPS = 120
WORDS = (f"training.max_steps={NUM_STEPS}", "training.val_every_n_steps=1000")
RARELY = "training.save_every_n_steps=1000"  # what is saved is saved for a warning
MAX_REQUEUES = 2

Drill = Callable[[Cluster, ToyProject], Job]


def submit(cluster: Cluster, toy: ToyProject, name: str, *more: str, **sizes: int) -> Job:
    """Two ranks that train under this name, which no other test may give a run: they share a
    folder."""
    return cluster.submit(*toy.argv(name, *WORDS, *more), output=toy.runs / f"{name}.out", **sizes)


def undisturbed(cluster: Cluster, toy: ToyProject) -> Job:
    return submit(cluster, toy, "job-undisturbed").wait_for_end()


def warned(cluster: Cluster, toy: ToyProject) -> Job:
    """All ranks at once; then both a second apart, one of them late with its step too; then one
    rank only."""
    job = submit(cluster, toy, "job-warned", f"training.max_requeues={MAX_REQUEUES}", RARELY)
    job.wait_for_training(0)
    job.warn("USR1")
    job.wait_for_training(1)
    job.signal_rank(1, signal.SIGSTOP)
    job.signal_rank(0, signal.SIGTERM)
    time.sleep(1)
    job.signal_rank(1, signal.SIGTERM)
    job.signal_rank(1, signal.SIGCONT)
    job.wait_for_training(2)
    job.signal_rank(1, signal.SIGUSR1)
    return job.wait_for_end()


def two_nodes(cluster: Cluster, toy: ToyProject) -> Job:
    job = submit(cluster, toy, "job-two_nodes", num_nodes=2, num_tasks=1)
    job.wait_for_training(0)
    assert job.facts["NodeList"] == "n[1-2]"
    job.warn("USR1")
    return job.wait_for_end()


def killed(cluster: Cluster, toy: ToyProject) -> Job:
    job = submit(cluster, toy, "job-killed", "training.save_every_n_steps=10")
    job.wait_for_training(0)
    wait_until((toy.run_dir("job-killed").checkpoints / "last.ckpt").exists, "a checkpoint")
    job.signal_rank(1, signal.SIGKILL)
    wait_until(
        lambda: job.facts["JobState"] == "FAILED", "a job that has lost a rank to end", seconds=30
    )
    job.requeue()
    return job.wait_for_end()


def cancelled(cluster: Cluster, toy: ToyProject) -> Job:
    job = submit(cluster, toy, "job-cancelled", RARELY)
    job.wait_for_training(0)
    cluster.call("scancel", job.number)
    return job.wait_for_end()


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, toy: ToyProject) -> Iterator[dict[Drill, Future[Job]]]:
    toy.runs.mkdir(exist_ok=True)
    pool = ThreadPoolExecutor(max_workers=3)
    yield {
        drill: pool.submit(drill, cluster, toy)
        for drill in (warned, undisturbed, two_nodes, killed, cancelled)
    }
    pool.shutdown(
        wait=False, cancel_futures=True
    )  # where not every drill was looked at, they end with the cluster


def assert_as_undisturbed(job: Job, jobs: dict[Drill, Future[Job]], toy: ToyProject) -> None:
    """Every weight is the same to the last bit, and TensorBoard shows every step once."""
    for each in (job, jobs[undisturbed].result()):
        assert each.facts["JobState"] == "COMPLETED", each.output.read_text()
    run = toy.run_dir(job.output.stem)
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == NUM_STEPS
    assert max_abs_difference(load_weights(run), load_weights(toy.run_dir("job-undisturbed"))) == 0
    accumulator = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == list(range(NUM_STEPS))


def test_a_warned_job_requeues_itself_until_the_limit_and_then_says_how_to_go_on(
    cluster: Cluster, toy: ToyProject, jobs: dict[Drill, Future[Job]]
) -> None:
    job = jobs[warned].result()
    assert job.facts["JobState"] == "FAILED", job.output.read_text()
    assert (job.facts["ExitCode"], job.facts["Restarts"]) == ("75:0", str(MAX_REQUEUES))
    limit = f"it was requeued {MAX_REQUEUES} times and training.max_requeues={MAX_REQUEUES}"
    assert (
        f"Job {job.number} is not requeued: {limit}. Run 'scontrol requeue {job.number}', or"
        in job.starts[-1]
    )

    job.requeue()
    assert_as_undisturbed(job.wait_for_end(), jobs, toy)
    words = ": saved a checkpoint at step "
    told = [start.split(words)[0].splitlines()[-1] for start in job.starts[:-1]]
    stopped_at = [int(start.split(words)[1].split(",")[0]) for start in job.starts[:-1]]
    assert (
        told == ["Received SIGUSR1", "Received SIGTERM", "Received SIGUSR1"]
        and 0 < stopped_at[0] < stopped_at[1] < stopped_at[2] < NUM_STEPS
    )
    assert "starts from the beginning: there is no checkpoint in" in job.starts[0]
    for step, start in zip(stopped_at, job.starts[1:], strict=True):
        assert f"last.ckpt, step {step}: the newest of 1" in start


def test_a_job_on_two_nodes_requeues_itself(
    toy: ToyProject, jobs: dict[Drill, Future[Job]]
) -> None:
    job = jobs[two_nodes].result()
    assert job.facts["Restarts"] == "1"
    assert_as_undisturbed(job, jobs, toy)


def test_a_job_that_lost_a_rank_ends_and_goes_on_when_it_is_requeued(
    toy: ToyProject, jobs: dict[Drill, Future[Job]]
) -> None:
    job = jobs[killed].result()
    assert "resumes from" in job.starts[1]
    assert_as_undisturbed(job, jobs, toy)


def test_a_job_that_is_cancelled_saves_and_stays_cancelled(
    toy: ToyProject, jobs: dict[Drill, Future[Job]]
) -> None:
    job = jobs[cancelled].result()
    assert (job.facts["JobState"], job.facts["Restarts"]) == ("CANCELLED", "0")
    assert (
        0
        < torch.load(toy.run_dir("job-cancelled").checkpoint("last"), weights_only=True)[
            "global_step"
        ]
        < NUM_STEPS
    )
