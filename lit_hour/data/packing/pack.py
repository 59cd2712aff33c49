"""Files and questions about them in, a folder of tar shards out: several at once, and only those that are not there yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.decode_worker import DecodeWorker
from lit_hour.data.packing.shard_plan import ShardPlan, plan_shards
from lit_hour.data.packing.shard_writer import PackState, write_shard
from lit_hour.data.questions.record import Modality, count_modalities
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    ShardIndex,
    SkippedSample,
    read_index,
    write_json,
)
from lit_hour.errors import ShardError
from lit_hour.io.atomic import TEMP_SUFFIX
from lit_hour.io.file_lock import locked

SECONDS_BETWEEN_LOOKS = 0.2  # at how far the others are


@dataclass(frozen=True)
class PackSummary:
    """What a folder of shards holds in all: `num_subjects` of each kind, `num_frames` pictures of videos and others."""

    num_shards: int
    num_samples: dict[Modality, int]
    num_questions: int
    num_frames: int
    duration_seconds: float
    num_bytes: int
    skipped: tuple[SkippedSample, ...]


def pack(
    folder: Path, questions: Path, out: Path, video: VideoConfig, settings: PackConfig
) -> PackSummary:
    """Pack videos, pictures and questions into shards, as `shards/README.md` specifies; finished shards are kept.

    Runs in several processes: a script that calls it needs the usual `if __name__ == "__main__":`.

    Args:
        folder: of the files that the questions are about.
        questions: question file, `.json` or `.jsonl`, whose file names are paths inside `folder`.
        out: folder for the shards; made when missing.

    Raises:
        QuestionError: the question file cannot be used, or names files that are not there.
        VideoError, ImageError: a file cannot be decoded, and it is one more than `pack.max_bad_samples` allows.
        ShardError: `out` holds shards made from something else or with more skipped, or cannot be written.
    """
    plans = plan_shards(folder, questions, out, video, settings)
    make_output_dir(out)
    with locked(out):
        return _pack_locked(plans, out, settings)


def _pack_locked(plans: Sequence[ShardPlan], out: Path, settings: PackConfig) -> PackSummary:
    _remove_unfinished(out)
    _refuse_other_shards(out, plans)
    finished = {plan.index: read_index(plan.index) for plan in plans if _is_finished(plan)}
    num_skipped = sum(len(index.skipped) for index in finished.values())
    if num_skipped > settings.max_bad_samples:
        raise ShardError(
            f"{out} was packed without {num_skipped} subjects, and pack.max_bad_samples is {settings.max_bad_samples}"
        )
    progress = PackState(
        num_done=sum(len(plan.samples) for plan in plans if plan.index in finished),
        num_skipped=num_skipped,
        max_skipped=settings.max_bad_samples,
    )
    _write_shards([plan for plan in plans if plan.index not in finished], settings, progress)
    summary = summarize([read_index(plan.index) for plan in plans])
    write_json(out / TOTALS_NAME, dataclasses.asdict(summary))
    return summary


def make_output_dir(out: Path) -> None:
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
    for unfinished in out.glob("*" + TEMP_SUFFIX):
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
    return (
        plan.index.is_file()
        and plan.tar.is_file()
        and plan.tar.stat().st_size == read_index(plan.index).num_bytes
    )


def _write_shards(plans: Sequence[ShardPlan], settings: PackConfig, progress: PackState) -> None:
    """Make the shards, so many at once (-1 for one per core), with a progress bar over the subjects.

    Those who write are threads, for the work is done by the processes that read for them, one for each.
    """
    if not plans:
        return
    num_subjects = progress.num_done + sum(len(plan.samples) for plan in plans)
    num_workers = min(resolve_num_workers(settings.num_workers), len(plans))
    bar = tqdm(
        total=num_subjects, initial=progress.num_done, unit="subject", desc="packing", miniters=1
    )
    readers: SimpleQueue[DecodeWorker] = SimpleQueue()

    def write(plan: ShardPlan) -> None:
        reader = readers.get()
        try:
            write_shard(plan, progress, reader)
        finally:
            readers.put(reader)

    with ExitStack() as ended_at_last, bar, ThreadPoolExecutor(num_workers) as executor:
        for _ in range(num_workers):
            readers.put(
                ended_at_last.enter_context(
                    DecodeWorker(settings.timeout_seconds, progress.check_stop)
                )
            )
        pending = {executor.submit(write, plan) for plan in plans}
        try:
            while pending:
                done, pending = wait(pending, SECONDS_BETWEEN_LOOKS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(progress.num_done - bar.n)
        finally:
            progress.stop.set()
            executor.shutdown(wait=True, cancel_futures=True)


def summarize(indexes: Sequence[ShardIndex]) -> PackSummary:
    """The totals of shards by their indexes."""
    subjects = [subject for index in indexes for subject in index.entries]
    return PackSummary(
        num_shards=len(indexes),
        num_samples=count_modalities(subject.modality for subject in subjects),
        num_questions=sum(subject.num_questions for subject in subjects),
        num_frames=sum(subject.num_frames for subject in subjects),
        duration_seconds=sum(subject.duration_seconds for subject in subjects),
        num_bytes=sum(index.num_bytes for index in indexes),
        skipped=tuple(skipped for index in indexes for skipped in index.skipped),
    )
