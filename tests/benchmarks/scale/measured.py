"""Measure parts of a process, and run processes limited in memory that report their parts.

Entry points: `Parts` in the measured process, `run_limited` in the one that starts it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

POLL_SECONDS = 0.05
MARK = "PART "  # begins the lines that report a part
PROGRESS = "PROGRESS "  # begins the lines that report how far a part is


@dataclass(frozen=True)
class Part:
    """A measured part.

    Attributes:
        name: such as "open the run".
        seconds: by the clock.
        core_seconds: processor time of all threads.
        peak_bytes: largest resident memory of the process during the part, mapped files included.
        anonymous_bytes: resident memory without mapped files, at the end of the part.
        value: what else was found: a count, or a note.
    """

    name: str
    seconds: float
    core_seconds: float
    peak_bytes: int
    anonymous_bytes: int
    value: float | str | None = None


class Parts:
    """Measures parts one after another and prints each as a line of JSON when it ends."""

    def __init__(self) -> None:
        self._name, self._started = "", 0.0

    def follow(self, what: str, layers: Sequence[nn.Module]) -> None:
        """Report the progress of the current part whenever one of these layers has run."""

        def report(number: int) -> None:
            seconds = time.perf_counter() - self._started
            peak = memory_of_process()["VmHWM"] / 1e9
            done = f"{self._name}: {what} {number} of {len(layers)} after {seconds:.0f} s"
            print(f"{PROGRESS}{done}, peak {peak:.2f} GB", flush=True)

        for number, layer in enumerate(layers, start=1):
            layer.register_forward_hook(lambda *_, number=number: report(number))  # type: ignore[misc]

    @contextmanager
    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure the block; `value` of the yielded dict is reported."""
        found: dict[str, Any] = {}
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
        started, started_core = time.perf_counter(), time.process_time()
        self._name, self._started = name, started
        yield found
        seconds, core = time.perf_counter() - started, time.process_time() - started_core
        memory = memory_of_process()
        part = Part(name, seconds, core, memory["VmHWM"], memory["RssAnon"], found.get("value"))
        print(MARK + json.dumps(asdict(part)), flush=True)


def memory_of_process(process_id: int | str = "self") -> dict[str, int]:
    """Return the memory counters of a process in bytes; none when it has ended."""
    try:
        text = (Path("/proc") / str(process_id) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in found}


@dataclass(frozen=True)
class Finished:
    """The parts that a process reported, and how it ended: "" or the reason of a failure."""

    parts: list[Part]
    failure: str


def run_limited(
    module: str, arguments: list[str], limit_bytes: int, num_threads: int, timeout_seconds: float
) -> Finished:
    """Run a module in a process of limited memory and time, and collect its parts.

    The process is killed when its peak of resident memory exceeds the limit, or its time is over.
    Limits of the system (RLIMIT_DATA, RLIMIT_AS) would also count the mapped files that weights
    are read from, page by page.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
    )
    reasons: list[str] = []

    def watch() -> None:
        ends = time.monotonic() + timeout_seconds
        while process.poll() is None and not reasons:
            if time.monotonic() > ends:
                reasons.append(f"stopped after {timeout_seconds:.0f} s")
            elif memory_of_process(process.pid).get("VmHWM", 0) > limit_bytes:
                reasons.append(f"it needs more than {limit_bytes / 1e9:.1f} GB")
            time.sleep(POLL_SECONDS)
        process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    parts: list[Part] = []
    progress = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith(MARK):
                parts.append(Part(**json.loads(line.removeprefix(MARK))))
                progress = ""
                print(f"  {describe(parts[-1])}", flush=True)
            elif line.startswith(PROGRESS):
                progress = line.removeprefix(PROGRESS).strip()
        status = process.wait()
    finally:
        process.kill()
        watcher.join()
    reasons += [f"{one.name} needed more memory" for one in parts if one.peak_bytes > limit_bytes]
    reasons += [f"exit status {status}"] if status else []
    if not reasons:
        return Finished(parts, "")
    return Finished(parts, f"{reasons[0]}; {progress}" if progress else reasons[0])


def describe(part: Part) -> str:
    """Return a part in one line."""
    value = "" if part.value is None else f"; {part.value}"
    return (
        f"{part.name}: {part.seconds:.1f} s, {part.core_seconds:.1f} core seconds,"
        f" peak {part.peak_bytes / 1e9:.2f} GB{value}"
    )
