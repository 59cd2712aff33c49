import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lit_hour.errors import RunError
from lit_hour.run_dir import RunDir
from lit_hour.training import run_lease
from lit_hour.training.run_lease import (
    HEARTBEAT_SECONDS,
    HOLDER_NAME,
    LEASE_VARIABLE,
    Holder,
    hold_run,
    process_start,
)
from tests.helpers.fork import FORK
from tests.helpers.toy_run import (
    NUM_STEPS,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
    start_command,
)
from tests.training.fork_run import AtBatch, fork_run

NUM_RACERS, NUM_RACES = 4, 2
TIMEOUT_SECONDS = 30


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs/mine")


@pytest.fixture
def start(run: RunDir) -> Iterator[Callable[[], BaseProcess]]:
    """Start a process that holds the run until it is ended, and wait until it does."""
    started: list[BaseProcess] = []

    def hold(ready: Barrier) -> None:
        with hold_run(run):
            ready.wait(TIMEOUT_SECONDS)
            time.sleep(TIMEOUT_SECONDS)

    def start_holder() -> BaseProcess:
        ready = FORK.Barrier(2)
        started.append(FORK.Process(target=hold, args=(ready,)))
        started[-1].start()
        ready.wait(TIMEOUT_SECONDS)
        return started[-1]

    yield start_holder
    for process in started:
        process.kill()
        process.join()


def end(process: BaseProcess, number: int) -> None:
    os.kill(process.pid or 0, number)
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode is not None


def write_lease(run: RunDir, age_seconds: float = 0, **values: object) -> None:
    """Write the lease of another host."""
    run.lease.mkdir(parents=True)
    holder = {**asdict(Holder(host="other", machine="other boot", process=7)), **values}
    file = run.lease / HOLDER_NAME
    file.write_text(json.dumps(holder))
    os.utime(file, (time.time() - age_seconds,) * 2)


def test_a_second_start_is_refused_at_once_by_the_name_of_the_first(
    run: RunDir, start: Callable[[], BaseProcess]
) -> None:
    process, started = start(), time.monotonic()
    with pytest.raises(RunError) as refusal, hold_run(run):
        pass
    assert time.monotonic() - started < HEARTBEAT_SECONDS
    message, today = str(refusal.value), time.strftime("%Y-%m-%d ")
    assert f"process {process.pid} on {socket.gethostname()}, since {today}" in message
    assert f"'kill {process.pid}'" in message and "run.name=NAME" in message
    assert [path.name for path in run.path.iterdir() if path.name != ".lock"] == ["lease"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_start_after_the_end_of_the_first_goes_on_at_once(
    run: RunDir, start: Callable[[], BaseProcess], number: int
) -> None:
    end(start(), number)
    assert run.lease.exists() == (number == signal.SIGKILL)
    with hold_run(run) as lease:
        assert lease.holder.process == os.getpid()
        lease.check()
    assert not run.lease.exists()


def test_second_entry_of_the_same_process_sees_a_lost_lease(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train.main` enters the lease and `fit` enters it again: one heartbeat serves both."""
    monkeypatch.setattr(run_lease, "HEARTBEAT_SECONDS", 0.01)
    with hold_run(run), hold_run(run) as inner:
        shutil.rmtree(run.lease)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not inner.is_lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert inner.is_lost
        with pytest.raises(RunError, match="was removed"):
            inner.check()


@pytest.mark.parametrize("content", ["{}", '{"machine": "x"}', '{"launch": null}', "[]", "null"])
def test_incomplete_lease_holds_until_its_heartbeat_is_old(run: RunDir, content: str) -> None:
    write_lease(run, age_seconds=130)
    file = run.lease / HOLDER_NAME
    old = file.stat().st_mtime
    file.write_text(content)
    with pytest.raises(RunError, match="an unknown host"), hold_run(run):
        pass
    os.utime(file, (old, old))
    with hold_run(run) as lease:
        lease.check()


def test_a_killed_process_that_nobody_has_waited_for_holds_nothing(
    run: RunDir, start: Callable[[], BaseProcess]
) -> None:
    process = start()
    os.kill(process.pid or 0, signal.SIGKILL)
    while process_start(process.pid or 0):
        time.sleep(0.01)
    assert Path(f"/proc/{process.pid}").exists()  # a zombie
    with hold_run(run):
        pass


def test_another_process_with_the_number_of_the_dead_one_holds_nothing(run: RunDir) -> None:
    write_lease(run, machine=Holder().machine, process=os.getppid(), started="1")
    with hold_run(run):
        pass


@pytest.mark.parametrize("is_stale", [False, True])
@pytest.mark.parametrize("machine", ["other boot", "?", None])
def test_a_lease_of_another_host_holds_until_its_heartbeat_is_old(
    run: RunDir, is_stale: bool, machine: str | None
) -> None:
    write_lease(run, age_seconds=130 if is_stale else 20, machine=machine or "")
    if machine is None:
        file = run.lease / HOLDER_NAME
        times = (file.stat().st_atime, file.stat().st_mtime)
        file.write_text("{")  # a file that a disk has damaged
        os.utime(file, times)
    if is_stale:
        with hold_run(run):
            pass
        assert not run.lease.exists()
        return
    with pytest.raises(RunError) as refusal, hold_run(run):
        pass
    assert f"or at once after deleting {run.path}/lease" in str(refusal.value)
    assert any(
        f"is {age} s old. If that process is gone, start again in {120 - age} s"
        in str(refusal.value)
        for age in (19, 20, 21, 22)
    )
    assert run.lease.exists()


def test_a_requeued_slurm_job_goes_on_at_once_on_another_host(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(run, launch={"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"})
    for job, restarts, is_refused in (("6", "2", True), ("5", "1", True), ("5", "2", False)):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        try:
            with hold_run(run):
                assert not is_refused, (job, restarts)
        except RunError:
            assert is_refused, (job, restarts)


def race(run: RunDir, ready: Barrier, done: Barrier) -> None:
    """Exit with 0 if this process gets the run, and with 3 if it is refused."""
    ready.wait(TIMEOUT_SECONDS)
    try:
        with hold_run(run) as lease:
            done.wait(TIMEOUT_SECONDS)
            lease.check()
    except RunError:
        done.wait(TIMEOUT_SECONDS)
        os._exit(3)


@pytest.mark.parametrize("left", ["nothing", "stale", "dead", "empty", "damaged"])
def test_exactly_one_of_several_simultaneous_starts_gets_the_run(run: RunDir, left: str) -> None:
    for _ in range(NUM_RACES):
        if left == "stale":
            write_lease(run, age_seconds=130)
        elif left == "dead":
            write_lease(run, machine=Holder().machine, started="1")
        elif left == "damaged":
            run.lease.mkdir(parents=True)
            (run.lease / "other").touch()
        elif left == "empty":
            run.lease.mkdir(parents=True)
        barriers = FORK.Barrier(NUM_RACERS), FORK.Barrier(NUM_RACERS)
        racers = [FORK.Process(target=race, args=(run, *barriers)) for _ in range(NUM_RACERS)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(TIMEOUT_SECONDS)
        assert sorted(racer.exitcode or 0 for racer in racers) == [0] + [3] * (NUM_RACERS - 1)
        assert not list(run.path.glob("lease*")) if run.path.exists() else True


def test_the_other_ranks_of_a_start_wait_for_rank_zero_and_share_its_lease(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(run, launch={"MASTER_ADDR": "host", "MASTER_PORT": "1"}, age_seconds=130)

    def join(rank: int, port: str) -> BaseProcess:
        def wait() -> None:
            os.environ |= {"RANK": str(rank), "MASTER_ADDR": "host", "MASTER_PORT": port}
            run_lease.RANK_ZERO_TIMEOUT_SECONDS = 1.0
            with hold_run(run) as lease:
                lease.check()

        process = FORK.Process(target=wait)
        process.start()
        return process

    early, other = join(1, "2"), join(1, "3")
    time.sleep(0.2)
    assert early.exitcode is None
    monkeypatch.setenv("MASTER_ADDR", "host")
    monkeypatch.setenv("MASTER_PORT", "2")
    with hold_run(run) as lease:
        late = join(1, "2")
        for rank, status in ((early, 0), (late, 0), (other, 1)):
            rank.join(TIMEOUT_SECONDS)
            assert rank.exitcode == status
        lease.check()
        monkeypatch.setenv("MASTER_PORT", "4")  # as of ranks that rank zero starts itself
        assert os.environ[LEASE_VARIABLE] == lease.holder.id
        child = join(1, "4")
        child.join(TIMEOUT_SECONDS)
        assert child.exitcode == 0


def test_rank_zero_is_the_first_of_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, is_first in (
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "1"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ):
        with monkeypatch.context() as patch:
            for name in (*run_lease.RANK_VARIABLES, "NODE_RANK"):
                patch.delenv(name, raising=False)
            for name, value in names.items():
                patch.setenv(name, value)
            assert run_lease.is_rank_zero() == is_first, names


def test_a_copy_of_a_run_that_trains_is_free(
    run: RunDir, start: Callable[[], BaseProcess], tmp_path: Path
) -> None:
    start()
    copy = RunDir(Path(shutil.copytree(run.path, tmp_path / "copy")))
    with hold_run(copy):
        pass
    moved = RunDir(run.path.rename(tmp_path / "moved"))
    with pytest.raises(RunError, match="is in use"), hold_run(moved):
        pass


def test_the_heartbeat_goes_on_and_finds_a_lease_that_is_lost(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lease, "HEARTBEAT_SECONDS", 0.02)
    with hold_run(run) as lease:
        file = run.lease / HOLDER_NAME
        os.utime(file, (0, 0))
        wait_until(lambda: time.time() - file.stat().st_mtime < 5)
        lease.check()
        shutil.rmtree(run.lease)
        wait_until(lambda: lease.is_lost)
        with pytest.raises(RunError, match=r"no longer holds the run .*/mine: .*lease was removed"):
            lease.check()
        write_lease(run)
        with pytest.raises(RunError, match=r"process 7 on other, since .* holds it now"):
            lease.check()
    assert Holder.read(run.lease) is not None  # the other one's


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"Cannot write in the run directory .*file/mine: Not a dir"),
        hold_run(RunDir(tmp_path / "file/mine")),
    ):
        pass


def test_a_run_in_training_is_not_hurt_by_a_second_start(trained: TrainedRun) -> None:
    """The second start is refused while the first one waits in its third step."""
    name, toy = "held", trained.project
    ready, go = FORK.Event(), FORK.Event()

    def wait_in_step() -> None:
        ready.set()
        go.wait(TIMEOUT_SECONDS)

    first = fork_run(toy, name, callback=AtBatch(wait_in_step, batch=5))
    assert ready.wait(TIMEOUT_SECONDS)
    run = toy.run_dir(name)
    half = run.checkpoints / "last.ckpt.unfinished"
    half.write_bytes(b"as if it was being saved")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="is in use: process"):
        toy.fit(name)
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {".lock"}
    go.set()
    assert first.wait() == [0], first.output()
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0
    assert not run.lease.exists()


def test_a_run_without_its_lease_ends_before_it_saves(toy: ToyProject) -> None:
    name = "taken"
    forked = fork_run(
        toy, name, callback=AtBatch(lambda: shutil.rmtree(toy.run_dir(name).lease), batch=7)
    )
    assert forked.wait() == [1]
    assert "error: This process no longer holds the run" in forked.output()
    assert "Traceback" not in forked.output()
    saved = {file.stem for file in toy.run_dir(name).checkpoints.glob("*.ckpt")}
    assert saved == {"best", "last", "step=000002"}


@pytest.mark.slow
def test_ranks_that_lightning_starts_share_a_lease(toy: ToyProject) -> None:
    process = start_command(toy, "launched", "training.devices=2")
    printed = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, printed
    assert f"step {NUM_STEPS}" in printed
    assert not toy.run_dir("launched").lease.exists()
