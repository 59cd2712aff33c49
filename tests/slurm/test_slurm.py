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
OVERRIDES = (f"training.max_steps={NUM_STEPS}", "training.val_every_n_steps=1000")
NO_PERIODIC_SAVES = "training.save_every_n_steps=1000"  # only a signal saves a checkpoint
MAX_REQUEUES = 2

Scenario = Callable[[Cluster, ToyProject], Job]


def submit(cluster: Cluster, toy: ToyProject, name: str, *more: str, **sizes: int) -> Job:
    """Submit a job of two ranks; its run has the same name, which no other test may use."""
    return cluster.submit(
        *toy.argv(name, *OVERRIDES, *more), output=toy.runs / f"{name}.out", **sizes
    )


def uninterrupted(cluster: Cluster, toy: ToyProject) -> Job:
    return submit(cluster, toy, "job-uninterrupted").wait_for_end()


def signaled(cluster: Cluster, toy: ToyProject) -> Job:
    """Signal all ranks at once; then both a second apart, one in a later step; then one rank."""
    job = submit(
        cluster, toy, "job-signaled", f"training.max_requeues={MAX_REQUEUES}", NO_PERIODIC_SAVES
    )
    job.wait_for_training(0)
    job.signal_all("USR1")
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
    assert job.fields["NodeList"] == "n[1-2]"
    job.signal_all("USR1")
    return job.wait_for_end()


def killed(cluster: Cluster, toy: ToyProject) -> Job:
    job = submit(cluster, toy, "job-killed", "training.save_every_n_steps=10")
    job.wait_for_training(0)
    wait_until((toy.run_dir("job-killed").checkpoints / "last.ckpt").exists, "a checkpoint")
    job.signal_rank(1, signal.SIGKILL)
    wait_until(
        lambda: job.fields["JobState"] == "FAILED", "a job that has lost a rank to end", seconds=30
    )
    job.requeue()
    return job.wait_for_end()


def canceled(cluster: Cluster, toy: ToyProject) -> Job:
    job = submit(cluster, toy, "job-canceled", NO_PERIODIC_SAVES)
    job.wait_for_training(0)
    cluster.call("scancel", job.number)
    return job.wait_for_end()


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, toy: ToyProject) -> Iterator[dict[Scenario, Future[Job]]]:
    toy.runs.mkdir(exist_ok=True)
    pool = ThreadPoolExecutor(max_workers=3)
    yield {
        scenario: pool.submit(scenario, cluster, toy)
        for scenario in (signaled, uninterrupted, two_nodes, killed, canceled)
    }
    # If only some tests ran, the other jobs end with the cluster.
    pool.shutdown(wait=False, cancel_futures=True)


def assert_equals_uninterrupted(
    job: Job, jobs: dict[Scenario, Future[Job]], toy: ToyProject
) -> None:
    """Assert that all weights are bit-identical, and that TensorBoard has every step once."""
    for finished in (job, jobs[uninterrupted].result()):
        assert finished.fields["JobState"] == "COMPLETED", finished.output.read_text()
    run = toy.run_dir(job.output.stem)
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == NUM_STEPS
    assert (
        max_abs_difference(load_weights(run), load_weights(toy.run_dir("job-uninterrupted"))) == 0
    )
    accumulator = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == list(range(NUM_STEPS))


def test_signaled_job_requeues_itself_until_the_limit_and_names_how_to_resume(
    cluster: Cluster, toy: ToyProject, jobs: dict[Scenario, Future[Job]]
) -> None:
    job = jobs[signaled].result()
    assert job.fields["JobState"] == "FAILED", job.output.read_text()
    assert (job.fields["ExitCode"], job.fields["Restarts"]) == ("75:0", str(MAX_REQUEUES))
    limit = f"it was requeued {MAX_REQUEUES} times and training.max_requeues={MAX_REQUEUES}"
    assert (
        f"Job {job.number} is not requeued: {limit}. Run 'scontrol requeue {job.number}', or"
        in job.starts[-1]
    )

    job.requeue()
    assert_equals_uninterrupted(job.wait_for_end(), jobs, toy)
    separator = ": saved a checkpoint at step "
    messages = [start.split(separator)[0].splitlines()[-1] for start in job.starts[:-1]]
    assert messages == ["Received SIGUSR1", "Received SIGTERM", "Received SIGUSR1"]
    stopped_at = [int(start.split(separator)[1].split(",")[0]) for start in job.starts[:-1]]
    assert 0 < stopped_at[0] < stopped_at[1] < stopped_at[2] < NUM_STEPS
    assert "starts from the beginning: there is no checkpoint in" in job.starts[0]
    for step, start in zip(stopped_at, job.starts[1:], strict=True):
        assert f"last.ckpt, step {step}: the newest of 1" in start


def test_job_on_two_nodes_requeues_itself(
    toy: ToyProject, jobs: dict[Scenario, Future[Job]]
) -> None:
    job = jobs[two_nodes].result()
    assert job.fields["Restarts"] == "1"
    assert_equals_uninterrupted(job, jobs, toy)


def test_job_that_lost_a_rank_fails_and_resumes_when_requeued(
    toy: ToyProject, jobs: dict[Scenario, Future[Job]]
) -> None:
    job = jobs[killed].result()
    assert "resumes from" in job.starts[1]
    assert_equals_uninterrupted(job, jobs, toy)


def test_canceled_job_saves_and_stays_canceled(
    toy: ToyProject, jobs: dict[Scenario, Future[Job]]
) -> None:
    job = jobs[canceled].result()
    assert (job.fields["JobState"], job.fields["Restarts"]) == ("CANCELLED", "0")
    checkpoint = torch.load(toy.run_dir("job-canceled").checkpoint("last"), weights_only=True)
    assert 0 < checkpoint["global_step"] < NUM_STEPS
