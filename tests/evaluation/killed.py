"""`python -m lit_hour evaluate` in forks that may be killed, and what they leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_hour.cli import main
from lit_hour.io.jsonl import Journal, read_journal
from lit_hour.run_dir import RunDir
from tests.helpers.fork import ForkedRanks, fork_ranks

BABBLE = "generation.max_new_tokens=6"


def num_answers(out: Path) -> int:
    """Answers on disk, each of another question."""
    ids = [
        record["id"] for file in (out / "answers").glob("*.jsonl") for record in read_journal(file)
    ]
    assert len(ids) == len(set(ids))
    return len(ids)


def die_at_answer(number: int, rank: int) -> Callable[[int], None]:
    """Have one rank killed before it writes down its how many-th answer."""

    def prepare(this_rank: int) -> None:
        add, noted = Journal.add, []

        def counted(journal: Journal, record: dict[str, Any]) -> None:
            noted.append(record)
            if this_rank == rank and len(noted) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            add(journal, record)

        Journal.add = counted  # type: ignore[method-assign]

    return prepare


def fork_evaluate(
    random_run: RunDir,
    out: Path,
    words: list[str],
    outputs: Path,
    *,
    num_ranks: int,
    prepare: Callable[[int], None] = lambda rank: None,
) -> ForkedRanks:
    """`python -m lit_hour evaluate` in forks, after something was prepared in each."""

    def work(rank: int) -> None:
        prepare(rank)
        main(
            [
                "evaluate",
                BABBLE,
                *words,
                f"training.devices={num_ranks}",
                "--run",
                str(random_run.path),
                "--out",
                str(out),
            ]
        )

    return fork_ranks(work, [outputs / f"rank{rank}.txt" for rank in range(num_ranks)])
