"""The lease on a run directory: only one start of a run trains in it, on any machine.

`hold_run` is the entry point. The lease is the folder RUN/lease with `holder.json`: which process
holds it, on which host, since when. The folder appears by a rename, which fails where a lease
exists, on a local disk as on NFS. A heartbeat sets the file's modification time.

A released lease is gone. What a killed process has left counts no longer: on the same host as soon
as the process is gone, and elsewhere when the last heartbeat is `STALE_SECONDS` old. Only
modification times that the disk itself has set are compared: the clocks of hosts may differ. This
module imports neither torch nor Lightning.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from uuid import uuid4

from lit_hour.errors import RunError
from lit_hour.io.atomic import remove
from lit_hour.io.file_lock import dir_lock
from lit_hour.run_dir import RunDir

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # above the time for which NFS clients cache attributes
POLL_SECONDS = 0.1
RANK_ZERO_TIMEOUT_SECONDS = 600.0  # for which the other ranks wait for rank zero
HOLDER_NAME = "holder.json"
LEASE_VARIABLE = "LIT_HOUR_LEASE"  # id of the lease, for the ranks that rank zero itself starts
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as in Lightning
LOOPBACK_ADDRESSES = ("127.0.0.1", "localhost", "::1")
LAUNCH_VARIABLES = (  # equal on all ranks of a start
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def _machine() -> str:
    """Identify the host, its boot and the namespace of its process numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # a system without /proc
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts += [os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def process_start(process: int) -> str:
    """Return when a process started, in a unit of the system; "" if it has ended.

    Returns:
        "unknown" for a process of which the system says no more than that it exists.
    """
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "unknown"
    return "" if state in "ZX" else fields[18]  # field 22 of /proc/PID/stat


@dataclass(frozen=True)
class Holder:
    """The content of `holder.json`.

    Attributes:
        machine: host, boot and process namespace.
        started: of the process, as `process_start` returns it.
        since: local time at which the lease was taken.
        path: run directory, to recognize a lease that was copied with it.
        launch: the `LAUNCH_VARIABLES`, to recognize ranks of the same start.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=_machine)
    started: str = field(default_factory=lambda: process_start(os.getpid()))
    since: str = field(
        default_factory=lambda: datetime.now().astimezone().isoformat(" ", timespec="seconds")
    )
    path: str = ""
    launch: dict[str, str] = field(
        default_factory=lambda: {
            name: os.environ[name] for name in LAUNCH_VARIABLES if name in os.environ
        }
    )

    @classmethod
    def read(cls, lease: Path) -> Holder | None:
        """Read the holder of a lease: None without a lease, an empty id if the file is corrupt."""
        try:
            values = json.loads((lease / HOLDER_NAME).read_text(encoding="utf-8"))
            types: dict[str, type] = {
                name: int if name == "process" else str for name in cls.__dataclass_fields__
            }
            types["launch"] = dict
            if {name: type(value) for name, value in values.items()} != types:
                raise ValueError("a field is missing or has another type")
            return cls(**values)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, AttributeError, IsADirectoryError):
            return cls(id="", host="an unknown host", process=0, machine="", since="?", launch={})

    def is_dead(self, run: Path) -> bool:
        """Return whether the holder's process is known to have ended, without waiting."""
        own = Holder()
        if self.machine == own.machine:
            if process_start(self.process) not in (self.started, "unknown"):
                return True
            # Copied together with the run directory, in which the process still trains.
            return Path(self.path).exists() and not os.path.samefile(self.path, run)
        # SLURM starts a job again only when its processes have ended, or their node is lost.
        job, restarts = (self.launch.get(name) for name in LAUNCH_VARIABLES[:2])
        return (
            job is not None
            and job == own.launch.get("SLURM_JOB_ID")
            and int(restarts or 0) < int(own.launch.get("SLURM_RESTART_COUNT", 0))
        )


class RunLease:
    """A lease that a rank zero holds, or that another rank of the same start relies on."""

    def __init__(self, run: RunDir, holder: Holder) -> None:
        self.run, self.holder = run, holder
        self.path = run.lease
        self.is_lost = False
        self._released = threading.Event()

    def take(self) -> None:
        """Take the lease.

        Raises:
            RunError: another process holds it, or the disk cannot be written.
        """
        own = self.path.with_name(f"{self.path.name}.{self.holder.id}")
        try:
            own.mkdir(parents=True)
            content = json.dumps(asdict(self.holder), indent=1)
            (own / HOLDER_NAME).write_text(content, encoding="utf-8")
            while not self._rename(own):
                with dir_lock(self.run.path):
                    self._remove_dead(now=(own / HOLDER_NAME).stat().st_mtime)
        except OSError as error:
            raise RunError(
                f"Cannot write in the run directory {self.run.path}: {error.strerror}. Check the"
                " disk, or choose another with run.folder"
            ) from error
        finally:
            with suppress(OSError):
                remove(own)

    def start_heartbeat(self) -> None:
        """Start the thread that keeps the lease alive, until it is released."""
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def release(self) -> None:
        """Remove the lease, unless it belongs to another process."""
        self._released.set()
        is_own = (self.holder.process, self.holder.machine) == (os.getpid(), _machine())
        if is_own and Holder.read(self.path) == self.holder:
            with suppress(OSError):  # the lease then ends with this process
                (self.path / HOLDER_NAME).unlink()
                self.path.rmdir()

    def check(self) -> None:
        """Check that this start still holds the lease, before something is written.

        Raises:
            RunError: it was removed, or another start has taken it.
        """
        found = Holder.read(self.path)
        if found is None or found.id != self.holder.id:
            reason = f"{_describe(found)} holds it now" if found else f"{self.path} was removed"
            raise RunError(
                f"This process no longer holds the run {self.run.path}: {reason}. It ends without"
                " saving. Start it again when no other process trains this run"
            )

    def _rename(self, own: Path) -> bool:
        """Give the new lease its name, and return whether that succeeded."""
        try:
            os.rename(own, self.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            # NFS may report a failure when it receives a rename twice.
            return Holder.read(self.path) == self.holder
        return True

    def _remove_dead(self, now: float) -> None:
        """Remove the lease of a process that has ended.

        Args:
            now: present time, by the clock of the disk.

        Raises:
            RunError: the process may still run.
        """
        found = Holder.read(self.path)
        if found and not found.is_dead(self.run.path):
            with suppress(FileNotFoundError):  # released at this moment
                age = now - (self.path / HOLDER_NAME).stat().st_mtime
                if found.machine == self.holder.machine or age < STALE_SECONDS:
                    raise RunError(_refusal(self.run.path, found, age, self.holder))
        aside = self.path.with_name(f"{self.path.name}.{self.holder.id}.dead")
        with suppress(FileNotFoundError):
            os.rename(self.path, aside)
            moved = Holder.read(aside)
            if moved != found:  # a start on another host was faster
                with suppress(OSError):  # and a third one has taken the lease since
                    os.rename(aside, self.path)
            remove(aside)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that is not available for a while
                found = Holder.read(self.path)
                self.is_lost = found is None or found.id != self.holder.id
                if self.is_lost:
                    return
                os.utime(self.path / HOLDER_NAME)


_held: dict[Path, RunLease] = {}  # by run directory: what this process holds


@contextmanager
def hold_run(run: RunDir) -> Iterator[RunLease]:
    """Hold the lease of a run for a `with` block.

    Rank zero takes it, and the other ranks of the same start wait until it has. A process that
    holds it may enter the block again.

    Raises:
        RunError: another start holds it. The message says which process, and what to do.
    """
    if not is_rank_zero():
        yield _wait_for_rank_zero(run)
        return
    path = run.path.resolve()
    held = _held.get(path)
    if held and held.holder.process == os.getpid():  # not of a parent that has forked
        yield held
        return
    lease = RunLease(run, Holder(path=str(path)))
    lease.take()
    os.environ[LEASE_VARIABLE] = lease.holder.id
    _held[path] = lease
    try:
        with _exit_on_termination():
            lease.start_heartbeat()
            yield lease
    finally:
        os.environ.pop(LEASE_VARIABLE, None)
        _held.pop(path, None)
        lease.release()
        with suppress(OSError):  # not empty
            run.path.rmdir()


def is_rank_zero() -> bool:
    """Return whether the environment makes this process the first of its start, or the only one."""
    rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
    # Without RANK, Lightning starts the ranks of a node in a process that knows only its node.
    node = "0" if "RANK" in os.environ else os.environ.get("NODE_RANK", "0")
    return rank == node == "0"


def _wait_for_rank_zero(run: RunDir) -> RunLease:
    """Return the lease that rank zero of this start takes.

    Raises:
        RunError: rank zero does not take it. It may have been refused.
    """
    own = Holder()
    # Each host has a rank zero of the same loopback address and port.
    is_local = own.launch.get("MASTER_ADDR") in LOOPBACK_ADDRESSES
    deadline = time.monotonic() + RANK_ZERO_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        found = Holder.read(run.lease)
        if found and found.id == os.environ.get(LEASE_VARIABLE):
            return RunLease(run, found)
        if (
            found
            and found.launch == own.launch
            and (found.machine == own.machine or not is_local)
            and not found.is_dead(run.path)
        ):
            return RunLease(run, found)
        time.sleep(POLL_SECONDS)
    raise RunError(
        f"Rank zero has not begun to train {run.path} within {RANK_ZERO_TIMEOUT_SECONDS:.0f} s"
        f"{f', {_describe(found)} holds it' if found else ''}. The output of rank zero says why"
    )


@contextmanager
def _exit_on_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception, unless they are handled already."""

    def exit_by(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = []
    if threading.current_thread() is threading.main_thread():
        numbers = [
            number
            for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is signal.SIG_DFL
        ]
    for number in numbers:
        signal.signal(number, exit_by)
    try:
        yield
    finally:
        for number in numbers:
            if signal.getsignal(number) is exit_by:
                signal.signal(number, signal.SIG_DFL)


def _describe(holder: Holder) -> str:
    return f"process {holder.process} on {holder.host}, since {holder.since},"


def _refusal(run: Path, found: Holder, age_seconds: float, own: Holder) -> str:
    """Return the message for a start while another process holds the run."""
    message = f"{run} is in use: {_describe(found)} trains it."
    if found.machine == own.machine:
        return (
            f"{message} Wait until it ends, stop it with 'kill {found.process}', or start another"
            " run with run.name=NAME"
        )
    return (
        f"{message} Its last heartbeat is {age_seconds:.0f} s old. If that process is gone, start"
        f" again in {STALE_SECONDS - age_seconds:.0f} s, or at once after deleting {run}/lease;"
        " otherwise stop it, or start another run with run.name=NAME"
    )
