"""Files and questions about them in, a folder of tar shards out: several at once, and only those that are not there yet."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    UNFINISHED_SUFFIX,
    ShardIndex,
    SkippedSubject,
    read_index,
    write_json,
)
from lit_hour.data.plan import ShardPlan, plan_shards
from lit_hour.data.subject import Kind, count_kinds
from lit_hour.data.write_shard import Progress, write_shard
from lit_hour.errors import ShardError
from lit_hour.locked import locked

SECONDS_BETWEEN_LOOKS = 0.2  # at how far the processes are
PROCESSES = multiprocessing.get_context("forkserver")  # whose server imports torch once for all of them


@dataclass(frozen=True)
class PackSummary:
    """What a folder of shards holds in all: `num_subjects` of each kind, `num_frames` pictures of videos and others."""

    num_shards: int
    num_subjects: dict[Kind, int]
    num_questions: int
    num_frames: int
    duration_seconds: float
    bytes: int
    skipped: tuple[SkippedSubject, ...]


def pack(folder: Path, questions: Path, out: Path, video: VideoConfig, settings: PackConfig) -> PackSummary:
    """Pack videos, pictures and questions into shards, as `shards/README.md` specifies; finished shards are kept.

    Runs in several processes: a script that calls it needs the usual `if __name__ == "__main__":`.

    Args:
        folder: of the files that the questions are about.
        questions: question file, `.json` or `.jsonl`, whose file names are paths inside `folder`.
        out: folder for the shards; made when missing.

    Raises:
        QuestionError: the question file cannot be used, or names files that are not there.
        VideoError, ImageError: a file cannot be decoded, and it is one more than `pack.max_skipped` allows.
        ShardError: `out` holds shards made from something else or with more skipped, or cannot be written.
    """
    plans = plan_shards(folder, questions, out, video, settings)
    make_folder(out)
    with locked(out):
        return _pack_locked(plans, out, settings)


def _pack_locked(plans: Sequence[ShardPlan], out: Path, settings: PackConfig) -> PackSummary:
    _remove_unfinished(out)
    _refuse_other_shards(out, plans)
    finished = {plan.index: read_index(plan.index) for plan in plans if _is_finished(plan)}
    num_skipped = sum(len(index.skipped) for index in finished.values())
    if num_skipped > settings.max_skipped:
        raise ShardError(f"{out} was packed without {num_skipped} subjects, and pack.max_skipped is {settings.max_skipped}")
    progress = Progress(
        PROCESSES,
        num_done=sum(len(plan.subjects) for plan in plans if plan.index in finished),
        num_skipped=num_skipped,
        max_skipped=settings.max_skipped,
    )
    _write_shards([plan for plan in plans if plan.index not in finished], settings.num_workers, progress)
    summary = summarize([read_index(plan.index) for plan in plans])
    write_json(out / TOTALS_NAME, dataclasses.asdict(summary))
    return summary


def make_folder(out: Path) -> None:
    """Make the folder of the shards if it is not there.

    Raises:
        ShardError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"{out} cannot be used as a folder for shards: {error}") from error


def _remove_unfinished(out: Path) -> None:
    """What a killed run left behind: nobody else is at work here."""
    for unfinished in out.glob("*" + UNFINISHED_SUFFIX):
        unfinished.unlink(missing_ok=True)


def _refuse_other_shards(out: Path, plans: Sequence[ShardPlan]) -> None:
    """Shards made with other settings, questions or files are neither used nor overwritten."""
    plan_of_index = {plan.index: plan for plan in plans}
    for path in sorted(out.glob(SHARD_PATTERN + ".json")):
        plan = plan_of_index.get(path)
        if plan is None or read_index(path).fingerprint != plan.fingerprint:
            raise ShardError(
                f"{out} holds shards made from other files, questions or settings ({path.name} differs): "
                "pack into another folder, or delete this one"
            )


def _is_finished(plan: ShardPlan) -> bool:
    return plan.index.is_file() and plan.tar.is_file() and plan.tar.stat().st_size == read_index(plan.index).bytes


def _write_shards(plans: Sequence[ShardPlan], num_workers: int, progress: Progress) -> None:
    """Make the shards in so many processes at once (0 for one per core), with a progress bar over the subjects."""
    if not plans:
        return
    num_finished = progress.num_done.value
    num_subjects = num_finished + sum(len(plan.subjects) for plan in plans)
    num_workers = min(num_workers or os.cpu_count() or 1, len(plans))
    bar = tqdm(total=num_subjects, initial=num_finished, unit="subject", desc="packing", miniters=1)
    with bar, _executor(num_workers, progress) as executor:
        pending = {executor.submit(_write_shard_here, plan) for plan in plans}
        try:
            while pending:
                done, pending = wait(pending, SECONDS_BETWEEN_LOOKS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(progress.num_done.value - bar.n)
        except BrokenProcessPool as error:
            raise ShardError("a packing process was killed, perhaps for want of memory: lower pack.num_workers") from error
        finally:
            progress.stop.set()
            executor.shutdown(wait=True, cancel_futures=True)


def _executor(num_workers: int, progress: Progress) -> Executor:
    """Processes, or for a single worker a thread of this process, which starts at once."""
    if num_workers == 1:
        return ThreadPoolExecutor(1, initializer=_share, initargs=(progress,))
    PROCESSES.set_forkserver_preload([write_shard.__module__])
    return ProcessPoolExecutor(num_workers, PROCESSES, initializer=_start_process, initargs=(progress,))


_shared_progress: Progress  # a process gets it once, at its start: locks cannot be sent with each shard


def _share(progress: Progress) -> None:
    global _shared_progress
    _shared_progress = progress


def _start_process(progress: Progress) -> None:
    _share(progress)
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End when the process that packs is killed, so that nobody goes on writing behind the next one's back."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard_here(plan: ShardPlan) -> None:
    write_shard(plan, _shared_progress)


def summarize(indexes: Sequence[ShardIndex]) -> PackSummary:
    """The totals of shards by their indexes."""
    subjects = [subject for index in indexes for subject in index.subjects]
    return PackSummary(
        num_shards=len(indexes),
        num_subjects=count_kinds(subject.kind for subject in subjects),
        num_questions=sum(subject.num_questions for subject in subjects),
        num_frames=sum(subject.num_frames for subject in subjects),
        duration_seconds=sum(subject.duration_seconds for subject in subjects),
        bytes=sum(index.bytes for index in indexes),
        skipped=tuple(skipped for index in indexes for skipped in index.skipped),
    )
