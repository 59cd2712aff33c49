"""The cluster of these tests ends with them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.slurm.cluster import wait_until, why_unavailable
from tests.slurm.process_tree import processes_of

pytestmark = pytest.mark.slow

PROGRAM = """
import time
from tests.slurm.cluster import running_cluster

with running_cluster() as cluster:
    size = ("--nodes=2", "--ntasks-per-node=1")
    cluster.call("sbatch", "--output=/dev/null", *size, "--wrap=srun sleep 1000")
    print(cluster.folder, flush=True)
    time.sleep(1000)
"""


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
def test_sigkill_of_a_test_leaves_no_process() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert program.stdout is not None
    folder = Path(program.stdout.readline().strip())
    names = ("munged", "slurmctld", "slurmd", "slurmstepd", "sleep")

    def running() -> str:
        return " ".join(
            Path(f"/proc/{process}/cmdline").read_bytes().decode()
            for process in processes_of(folder)
        )

    wait_until(lambda: all(name in running() for name in names), "a job on two nodes", seconds=30)
    program.send_signal(signal.SIGKILL)
    program.wait()
    wait_until(
        lambda: not processes_of(folder) and not folder.exists(),
        "the end of all processes",
        seconds=30,
    )
