"""Pack media files and questions into tar shards (`pack`), in parallel and resumable."""

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

SECONDS_BETWEEN_LOOKS = 0.2  # between updates of the progress bar


@dataclass(frozen=True)
class PackSummary:
    """Totals of a folder of shards.

    `num_samples` is per modality; `num_frames` counts video frames and images.
    """

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
    """Pack videos, images and questions into shards, in the format of `shards/README.md`.

    Finished shards of an earlier run are kept.

    Starts subprocesses, so a calling script needs an `if __name__ == "__main__":` guard.

    Args:
        folder: folder of the media files.
        questions: question file, `.json` or `.jsonl`, with file names relative to `folder`.
        out: folder for the shards; created if missing.
        video: settings of frame sampling and decoding.
        settings: settings of packing.

    Raises:
        QuestionError: the question file is invalid, or refers to missing files.
        VideoError, ImageError: more files cannot be decoded than `pack.max_bad_samples` allows.
        ShardError: `out` contains shards of other inputs or with too many samples skipped, or
            cannot be written.
    """
    plans = plan_shards(folder, questions, out, video, settings)
    make_output_dir(out)
    with locked(out):
        return _pack_locked(plans, out, settings)


def _pack_locked(plans: Sequence[ShardPlan], out: Path, settings: PackConfig) -> PackSummary:
    _remove_unfinished(out)
    _check_existing_shards(out, plans)
    finished = {plan.index: read_index(plan.index) for plan in plans if _is_finished(plan)}
    num_skipped = sum(len(index.skipped) for index in finished.values())
    if num_skipped > settings.max_bad_samples:
        raise ShardError(
            f"{out} was packed with {num_skipped} samples skipped, but"
            f" pack.max_bad_samples is {settings.max_bad_samples}"
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
    """Create the folder of the shards if it is missing.

    Raises:
        ShardError: the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"{out} cannot be used as a folder for shards: {error}") from error


def _remove_unfinished(out: Path) -> None:
    """Remove the temporary files of a killed run; the caller holds the folder's lock."""
    for unfinished in out.glob("*" + TEMP_SUFFIX):
        unfinished.unlink(missing_ok=True)


def _check_existing_shards(out: Path, plans: Sequence[ShardPlan]) -> None:
    """Raise if existing shards were made with other settings, questions or files."""
    plan_of_index = {plan.index: plan for plan in plans}
    for path in sorted(out.glob(SHARD_PATTERN + ".json")):
        plan = plan_of_index.get(path)
        if plan is None or read_index(path).fingerprint != plan.fingerprint:
            raise ShardError(
                f"{out} contains shards made from other files, questions or settings ({path.name}"
                " differs). Pack into another folder, or delete this one"
            )


def _is_finished(plan: ShardPlan) -> bool:
    return (
        plan.index.is_file()
        and plan.tar.is_file()
        and plan.tar.stat().st_size == read_index(plan.index).num_bytes
    )


def _write_shards(plans: Sequence[ShardPlan], settings: PackConfig, progress: PackState) -> None:
    """Write the shards in parallel, with a progress bar over the samples.

    Writers are threads, because most work is done by the decoder process that belongs to each.
    """
    if not plans:
        return
    num_samples = progress.num_done + sum(len(plan.samples) for plan in plans)
    num_workers = min(resolve_num_workers(settings.num_workers), len(plans))
    bar = tqdm(
        total=num_samples, initial=progress.num_done, unit="sample", desc="packing", miniters=1
    )
    readers: SimpleQueue[DecodeWorker] = SimpleQueue()

    def write(plan: ShardPlan) -> None:
        reader = readers.get()
        try:
            write_shard(plan, progress, reader)
        finally:
            readers.put(reader)

    with ExitStack() as stack, bar, ThreadPoolExecutor(num_workers) as executor:
        for _ in range(num_workers):
            readers.put(
                stack.enter_context(DecodeWorker(settings.timeout_seconds, progress.check_stop))
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
    """Sum up the indexes of all shards."""
    samples = [sample for index in indexes for sample in index.entries]
    return PackSummary(
        num_shards=len(indexes),
        num_samples=count_modalities(sample.modality for sample in samples),
        num_questions=sum(sample.num_questions for sample in samples),
        num_frames=sum(sample.num_frames for sample in samples),
        duration_seconds=sum(sample.duration_seconds for sample in samples),
        num_bytes=sum(index.num_bytes for index in indexes),
        skipped=tuple(skipped for index in indexes for skipped in index.skipped),
    )
