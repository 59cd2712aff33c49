"""A real SLURM of two nodes on this machine, without systemd.

`running_cluster` starts munged, slurmctld and two slurmd on the loopback interface.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests import REPOSITORY

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")
FINAL_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=15
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=4 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_unavailable() -> str:
    """Return why SLURM cannot run here, or an empty string."""
    absent = [
        name
        for name in PROGRAMS
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root to start jobs"


def free_ports(count: int) -> list[int]:
    """Return ports that are free at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_until(condition: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait until a condition holds, and fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """The daemons, by the folder of their settings, state and logs."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the daemons and of SLURM's commands."""
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
        }
        return {
            **outside,
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "VIRTUAL_ENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # the node names exist in SLURM only
        }

    def start(self) -> None:
        """Start the daemons and wait for both nodes."""
        (self.folder / "state").mkdir()
        (self.folder / "munge").mkdir(mode=0o700)
        key = self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        settings = SETTINGS.format(
            folder=self.folder, host=socket.gethostname().split(".")[0], ports=free_ports(3)
        )
        (self.folder / "slurm.conf").write_text(settings)
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge/seed",
        }
        self.call(
            "munged",
            f"--key-file={key}",
            *(f"--{option}={self.folder / name}" for option, name in files.items()),
        )
        self.call("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.call("slurmd", "-N", node)
        wait_until(lambda: self.call("sinfo", "-h", "-o", "%T %D") == "idle 2", "two idle nodes")

    def call(self, *command: str) -> str:
        """Run a command, which must succeed, and return its output."""
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *argv: str, num_nodes: int = 1, num_tasks: int = 2, output: Path) -> Job:
        """Submit conf/slurm/train.sbatch with arguments of train.py, `num_tasks` per node."""
        options = {
            "partition": "main",
            "nodes": num_nodes,
            "ntasks-per-node": num_tasks,
            "cpus-per-task": 1,
            "gpus-per-node": 0,
            "output": output,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return Job(
            self,
            self.call("sbatch", "--parsable", *arguments, "conf/slurm/train.sbatch", *argv),
            output,
        )


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a cluster that ends with this context, or with this process if that is killed."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munged needs a short path
    folder.chmod(0o755)  # and a folder that everyone may enter
    command = [sys.executable, Path(__file__).with_name("process_tree.py"), folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        cluster = Cluster(folder)
        cluster.start()
        yield cluster


@dataclass(frozen=True)
class Job:
    """A job, and the file with the output of all its starts."""

    cluster: Cluster
    number: str
    output: Path

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields of `scontrol show job`: JobState, ExitCode, Restarts, ..."""
        shown = self.cluster.call("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(field.split("=", 1) for field in shown if "=" in field)

    @property
    def starts(self) -> list[str]:
        """Return the output of each start so far."""
        printed = self.output.read_text(errors="replace") if self.output.exists() else ""
        return re.split(r"^run (?=.*(?:starts|resumes) from)", printed, flags=re.MULTILINE)[1:]

    def wait_for_training(self, start: int) -> None:
        """Wait until start number `start`, from 0, has finished a step."""

        def has_finished_a_step() -> bool:
            steps = (
                re.findall(r" (\d+)/\d+ \[", self.starts[start]) if len(self.starts) > start else []
            )
            return len(set(steps)) > 1

        wait_until(has_finished_a_step, f"start {start} of job {self.number} to train")

    def wait_for_end(self) -> Job:
        """Wait until the job is completed, failed or canceled, and return it."""
        wait_until(lambda: self.fields["JobState"] in FINAL_STATES, f"the end of job {self.number}")
        return self

    def requeue(self) -> None:
        """Start a job that has ended again.

        SLURM numbers the steps of each start alike, so the earlier ones must have ended.
        """
        wait_until(lambda: not self._steps(), f"the steps of job {self.number} to end")
        self.cluster.call("scontrol", "requeue", self.number)
        wait_until(
            lambda: self.fields["JobState"] not in FINAL_STATES,
            f"job {self.number} to be in the queue again",
        )

    def signal_all(self, name: str) -> None:
        """Send a signal to every task, as SLURM does before the time limit."""
        self.cluster.call("scancel", f"--signal={name}", self.number)

    def signal_rank(self, rank: int, number: int) -> None:
        """Send a signal to the process of one rank."""
        os.kill(self._process_of_rank(rank), number)

    def _steps(self) -> list[str]:
        """Return the commands of SLURM's step daemons, which outlive the job for some seconds."""
        commands = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                commands.append((folder / "cmdline").read_text(errors="replace"))
        return [line for line in commands if line.startswith(f"slurmstepd: [{self.number}.")]

    def _process_of_rank(self, rank: int) -> int:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            wanted = {f"SLURM_JOB_ID={self.number}".encode(), f"SLURM_PROCID={rank}".encode()}
            if command[1:2] == [b"train.py"] and wanted <= set(environment):
                return int(folder.name)
        raise AssertionError(f"job {self.number} has no rank {rank}")
