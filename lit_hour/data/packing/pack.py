"""Pack files and questions about them into a folder of shards. `pack` is the entry point."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.decode_worker import DecodeWorker
from lit_hour.data.packing.shard_plan import ShardPlan, plan_shards
from lit_hour.data.packing.shard_writer import PackState, write_shard
from lit_hour.data.questions.record import MODALITIES, Modality
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    FileStamp,
    ShardIndex,
    SkippedSample,
    read_index,
    write_index,
    write_json,
)
from lit_hour.errors import ShardError
from lit_hour.io.atomic import remove_temp_files
from lit_hour.io.file_lock import dir_lock

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class PackSummary:
    """Totals of a folder of shards.

    Attributes:
        num_samples: stored samples of each modality.
        num_frames: stored images: frames of videos, and image files.
    """

    num_shards: int
    num_samples: dict[Modality, int]
    num_questions: int
    num_frames: int
    duration_seconds: float
    num_bytes: int
    skipped: tuple[SkippedSample, ...]


def pack(
    folder: Path, questions: Path, out: Path, video: VideoConfig, config: PackConfig
) -> PackSummary:
    """Pack videos, images and questions as `shards/README.md` specifies; finished shards are kept.

    It starts processes: a script that calls it needs `if __name__ == "__main__":`.

    Args:
        folder: of the files that the questions are about.
        questions: `.json` or `.jsonl` file; its file names are paths inside `folder`.
        out: folder of the shards; created if missing.
        video: how frames are sampled.
        config: how shards are packed.

    Raises:
        QuestionError: more records than `pack.max_bad_samples` are invalid, or files are missing.
        VideoError, ImageError: more files and records than `pack.max_bad_samples` cannot be used.
        ShardError: `out` has shards made from something else or with more skipped samples, or
            cannot be written.
    """
    plans = plan_shards(folder, questions, out, video, config)
    make_output_dir(out)
    with dir_lock(out):
        remove_temp_files(out)  # of a killed run
        finished = _find_finished(out, plans)
        num_skipped = sum(len(index.skipped) for index in finished.values())
        num_skipped += sum(len(plan.skipped) for plan in plans if plan.index not in finished)
        if num_skipped > config.max_bad_samples:
            raise ShardError(
                f"{out} was packed without {num_skipped} samples,"
                f" but pack.max_bad_samples={config.max_bad_samples}."
            )
        state = PackState(
            num_done=sum(len(plan.samples) for plan in plans if plan.index in finished),
            num_skipped=num_skipped,
            max_skipped=config.max_bad_samples,
        )
        _write_shards([plan for plan in plans if plan.index not in finished], config, state)
        summary = summarize_shards([read_index(plan.index) for plan in plans])
        write_json(out / TOTALS_NAME, dataclasses.asdict(summary))
    return summary


def make_output_dir(out: Path) -> None:
    """Create the folder of the shards if it is missing.

    Raises:
        ShardError: it cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"Cannot use {out} as a folder of shards: {error}.") from error


def summarize_shards(indexes: Sequence[ShardIndex]) -> PackSummary:
    """Return the totals of shards from their indexes."""
    entries = [entry for index in indexes for entry in index.entries]
    counts = Counter(entry.modality for entry in entries)
    return PackSummary(
        num_shards=len(indexes),
        num_samples={modality: counts[modality] for modality in MODALITIES},
        num_questions=sum(entry.num_questions for entry in entries),
        num_frames=sum(entry.num_frames for entry in entries),
        duration_seconds=sum(entry.duration_seconds for entry in entries),
        num_bytes=sum(index.num_bytes for index in indexes),
        skipped=tuple(skipped for index in indexes for skipped in index.skipped),
    )


def _find_finished(out: Path, plans: Sequence[ShardPlan]) -> dict[Path, ShardIndex]:
    """Return the indexes of finished shards by their paths.

    Raises:
        ShardError: a shard was made with other settings, questions or files.
    """
    plan_of_index, finished = {plan.index: plan for plan in plans}, {}
    for path in sorted(out.glob(SHARD_PATTERN + ".json")):
        plan, index = plan_of_index.get(path), read_index(path)
        if plan is None or index.fingerprint != plan.fingerprint:
            raise ShardError(
                f"{out} has shards made from other files, questions or settings ({path.name}"
                " differs). Pack into another folder, or delete this one."
            )
        if plan.tar.is_file() and plan.tar.stat().st_size == index.num_bytes:
            finished[path] = index
            update_stamps(path, index, plan.stamp_files())
    return finished


def update_stamps(path: Path, index: ShardIndex, stamps: dict[str, FileStamp]) -> None:
    """Record the present times of unchanged files in an index, so that they are not read again."""
    if stamps != index.files:
        with suppress(OSError):  # a read-only folder stays unchanged
            write_index(path, dataclasses.replace(index, files=stamps))


def _write_shards(plans: Sequence[ShardPlan], config: PackConfig, state: PackState) -> None:
    """Write several shards at the same time, with a progress bar over the samples.

    A thread writes each shard while a worker process decodes its samples.
    """
    if not plans:
        return
    num_samples = state.num_done + sum(len(plan.samples) for plan in plans)
    num_workers = min(resolve_num_workers(config.num_workers), len(plans))
    bar = tqdm(total=num_samples, initial=state.num_done, unit="sample", desc="packing", miniters=1)
    workers: SimpleQueue[DecodeWorker] = SimpleQueue()

    def write(plan: ShardPlan) -> None:
        worker = workers.get()
        try:
            write_shard(plan, state, worker.read)
        finally:
            workers.put(worker)

    with ExitStack() as stack, bar, ThreadPoolExecutor(num_workers) as executor:
        for _ in range(num_workers):
            worker = DecodeWorker(config.timeout_seconds, state.check_stop)
            workers.put(stack.enter_context(worker))
        pending = {executor.submit(write, plan) for plan in plans}
        try:
            while pending:
                done, pending = wait(pending, PROGRESS_SECONDS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(state.num_done - bar.n)
        finally:
            state.stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
