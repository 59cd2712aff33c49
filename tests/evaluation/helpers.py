"""Runs of `lit-hour evaluate`, in this process or in forks that may be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_hour.cli.main import main
from lit_hour.evaluation.report.report import Report, read_report
from lit_hour.io.jsonl import JsonlWriter, read_jsonl
from lit_hour.run_dir import RunDir
from tests.evaluation import question_files
from tests.helpers.fork import ForkedRanks, fork_ranks

SHORT_ANSWERS = "generation.max_new_tokens=6"


def custom_questions(split: Path, *overrides: str) -> list[str]:
    """Return the overrides that evaluate all questions about a synthetic split, and more."""
    return [
        f"evaluation.questions={split}/questions.json",
        f"evaluation.videos={split}/videos",
        *overrides,
    ]


def write_converted(name: str, records: list[dict[str, Any]], folder: Path) -> str:
    """Write questions in the layout of a benchmark; return the value of evaluation.questions."""
    files = question_files.write_all(question_files.convert(name, records), folder)
    return ", ".join(map(str, files))


def run_evaluate(run: RunDir, out: Path, *overrides: str) -> Report:
    """Run `lit-hour evaluate` in this process, and read the report."""
    main(_arguments(run, out, *overrides))
    return read_report(out / "report.json")


def _arguments(run: RunDir, out: Path, *overrides: str) -> list[str]:
    return ["evaluate", SHORT_ANSWERS, *overrides, "--run", str(run.path), "--out", str(out)]


def fork_evaluate(
    run: RunDir,
    out: Path,
    overrides: list[str],
    outputs: Path,
    *,
    num_ranks: int,
    before: Callable[[int], None] = lambda rank: None,
) -> ForkedRanks:
    """Run `lit-hour evaluate` in forks, after calling a function with the rank in each."""

    def work(rank: int) -> None:
        before(rank)
        main(_arguments(run, out, *overrides, f"training.devices={num_ranks}"))

    return fork_ranks(work, [outputs / f"rank{rank}.txt" for rank in range(num_ranks)])


def num_stored(out: Path) -> int:
    """The number of responses on disk, each to another question."""
    ids = [
        record["id"] for file in (out / "answers").glob("*.jsonl") for record in read_jsonl(file)
    ]
    assert len(ids) == len(set(ids))
    return len(ids)


def die_at_response(number: int, rank: int) -> Callable[[int], None]:
    """Return a function that has one rank killed before it stores its number-th response."""

    def patch_writer(this_rank: int) -> None:
        write, written = JsonlWriter.write, []

        def counted(self: JsonlWriter, record: dict[str, Any]) -> None:
            written.append(record)
            if this_rank == rank and len(written) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, record)

        JsonlWriter.write = counted  # type: ignore[method-assign]

    return patch_writer
