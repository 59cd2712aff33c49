"""The section of SCALE.md about one size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.scale.measured import Finished, Part
from tests.benchmarks.scale.roofline import Rates, Work
from tests.benchmarks.scale.setup import Job
from tests.benchmarks.speed.harness.machine import cpu_name, current_commit, current_time
from tests.benchmarks.speed.harness.report import table_row

FILE = Path(__file__).parents[1] / "SCALE.md"
TITLE = """\
# Published sizes on a CPU

`python -m tests.benchmarks.scale 3b --write` writes a section of this file for its size and
length. A random checkpoint of the published sizes is written in bf16, converted as by `lit-hour
convert`, and answers questions about stored features in a process limited in memory. Peaks are
resident memory with the pages of mapped files. The roofline of a part is the time of its products
and its attention at the measured rates, or of reading its bytes, whichever is longer.
"""
GIGABYTE = 1e9
HEADINGS = ("part", "seconds", "core seconds", "peak memory", "roofline", "found")


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of one job.

    Attributes:
        job: what was measured.
        limit_bytes: of the resident memory of each process.
        num_threads: of the measured processes.
        processes: by title.
        rates: of this machine.
        work: of the parts of an answer, by the end of their names.
        remark: conditions of the measurement, such as other work on the machine.
    """

    job: Job
    limit_bytes: int
    num_threads: int
    processes: Mapping[str, Finished]
    rates: Rates
    work: Mapping[str, Work]
    remark: str = ""

    def to_markdown(self) -> str:
        """Return the section."""
        job = self.job
        layers = f" with {job.num_layers} decoder layers" if job.num_layers else ""
        rates, limit = self.rates, self.limit_bytes / GIGABYTE
        lines = [
            f"## {job.size}{layers}, {job.num_frames:,} frames",
            "",
            f"{cpu_name()}, {self.num_threads} threads, bf16;"
            f" commit {current_commit()}, {current_time()[:16]} UTC. {self.remark}".rstrip(),
            "",
            f"Resident memory is limited to {limit:.1f} GB: 1.5 x"
            f" weights + memory + 3 GB. Measured rates: matrix product {rates.matrix / 1e9:.0f}"
            f" GFLOP/s, attention {rates.attention / 1e9:.0f} GFLOP/s, memory"
            f" {rates.bandwidth / 1e9:.0f} GB/s.",
        ]
        for title, process in self.processes.items():
            lines += [
                "",
                f"### {title}",
                "",
                table_row(HEADINGS),
                table_row(["---"] * len(HEADINGS)),
            ]
            lines += [table_row(self._row(part)) for part in process.parts]
            if process.failure:
                lines += ["", f"Not finished: {process.failure}."]
            if process.parts:
                peak = max(part.peak_bytes for part in process.parts)
                lines += ["", f"Largest peak: {peak / GIGABYTE:.2f} GB resident."]
        return "\n".join(lines) + "\n"

    def _row(self, part: Part) -> list[str]:
        name = part.name.partition(": ")[2] or part.name
        work, repeats = self.work.get(name), 1.0
        if name == "other tokens":
            work, repeats = self.work["a further token"], float(part.value or 0)
        bound = f"{repeats * work.seconds(self.rates):.1f} s" if work else "–"
        return [
            part.name,
            f"{part.seconds:.1f}",
            f"{part.core_seconds:.1f}",
            f"{part.peak_bytes / GIGABYTE:.2f} GB",
            bound,
            describe_value(part),
        ]


def describe_value(part: Part) -> str:
    """Return what a part found, with its unit."""
    if part.value is None or isinstance(part.value, str):
        return part.value or ""
    if part.name.endswith("MemAug"):
        return f"{part.value:,} tokens for the language model"
    if part.name.endswith("other tokens"):
        return f"{part.value} tokens"
    return f"{float(part.value) / GIGABYTE:.2f} GB"


def write_section(section: str, file: Path = FILE) -> None:
    """Replace the section of the same heading in SCALE.md, or append it."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    _, *sections = re.split(r"(?m)^(?=## )", text)
    heading = section.splitlines()[0]
    kept = [one.strip() + "\n" for one in sections if one.splitlines()[0] != heading]
    file.write_text("\n".join([TITLE, *sorted([*kept, section])]), encoding="utf-8")
