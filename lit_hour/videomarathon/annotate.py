"""Annotate a folder of videos by model servers, resumably and in parallel: `annotate`.

    OUT/questions.json      the questions that were kept; `lit-hour pack` reads it
    OUT/dropped.jsonl       the others, each with the filter that dropped it and its reason
    OUT/totals.json         counts, tokens and cost
    OUT/charts/             sources, questions, durations, events: PNG files, and tensorboard/
    OUT/videos/NAME/        files of one video, see `annotation`, and index.html to review them

Any number of processes may fill one folder: each takes videos that no other process works on, or
only its own share of the videos. A process that is killed keeps every response it received; the
same command continues from there.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout
from tqdm import tqdm

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import ConfigError, InvalidResponseError, TeacherError, VideoError
from lit_hour.io.atomic import atomic_write
from lit_hour.io.file_lock import dir_lock
from lit_hour.videomarathon.aggregate import DatasetTotals, Failure, aggregate
from lit_hour.videomarathon.annotation import (
    CACHE_NAME,
    annotate_video,
    fingerprint,
    read_annotation,
    write_annotation,
)
from lit_hour.videomarathon.llm_client import ClientPool, task_group
from lit_hour.videomarathon.response_cache import ResponseCache
from lit_hour.videomarathon.review_html import render_page
from lit_hour.videomarathon.teacher import Teacher
from lit_hour.videomarathon.video_clips import VideoFile, find_videos

PAGE_NAME = "index.html"
PROGRESS_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Share:
    """One of `num_shares` parts of about equal size; numbers start at 1."""

    number: int = 1
    num_shares: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse `3/16`, the third of sixteen.

        Raises:
            ConfigError: the text is invalid.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        share = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= share.number <= share.num_shares:
            raise ConfigError(
                f"--share {text} is invalid. Give 1/16 for the first of sixteen shares, up to 16/16"
                " for the last (sbatch --array=1-16)."
            )
        return share

    def select(self, names: Sequence[str]) -> list[str]:
        """Return every `num_shares`-th name, starting at this share's number."""
        return list(names[self.number - 1 :: self.num_shares])

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shares}"


def annotate(
    videos: Path, out: Path, urls: Sequence[str], model: str, config: VideoMarathonConfig
) -> DatasetTotals:
    """Annotate every video of a folder that is not annotated yet, and aggregate the questions.

    Args:
        videos: folder; videos may be at any depth.
        out: folder of the annotations; created if missing.
        urls: of the servers, up to and including the version: `http://localhost:8000/v1`.
        model: name of the teacher on the servers.
        config: section `videomarathon`.

    Raises:
        TeacherError: there is no video, no server answers, or more than
            `videomarathon.max_failed_videos` failed.
    """
    job = annotate_share(Share(), videos, out, urls, model, config)
    try:
        with dir_lock(out):
            return aggregate(out, job.fingerprints, config, job.failed)
    except OSError as error:
        raise TeacherError(f"Cannot write to {out}: {error}.") from error


def annotate_share(
    share: Share,
    videos: Path,
    out: Path,
    urls: Sequence[str],
    model: str,
    config: VideoMarathonConfig,
) -> AnnotationJob:
    """Annotate every video of a share that is not annotated yet, without aggregation.

    Otherwise like `annotate`.
    """
    names = share.select(find_videos(videos))
    try:
        fingerprints = {name: fingerprint(videos / name, model, config) for name in names}
        job = AnnotationJob(videos, out, model, config, fingerprints)
        asyncio.run(job.run(job.unfinished(), urls))
    except OSError as error:
        raise TeacherError(f"Cannot write to {out}: {error}.") from error
    return job


def format_share_report(
    share: Share, num_videos: int, num_unfinished: int, failed: Mapping[str, Failure]
) -> str:
    """Return how much of a share is annotated, and how to aggregate the whole data set."""
    return "\n".join(
        [
            f"share {share}: {num_videos - num_unfinished} of {num_videos} videos are annotated",
            *(f"failed {name}: {failure.reason}" for name, failure in failed.items()),
            "When all shares are done, run the same command without --share: it annotates what is"
            " left and aggregates all.",
        ]
    )


@dataclass
class AnnotationJob:
    """The work of one process.

    Attributes:
        videos: folder of the videos.
        out: folder of the annotations.
        model: name of the teacher on the servers.
        config: section `videomarathon`.
        fingerprints: expected fingerprint of each video's annotation, by the video's name.
        failed: videos that failed.
    """

    videos: Path
    out: Path
    model: str
    config: VideoMarathonConfig
    fingerprints: dict[str, str]
    failed: dict[str, Failure] = field(default_factory=dict)

    def unfinished(self) -> list[str]:
        """Return the videos that are not annotated."""
        return [name for name in self.fingerprints if not self._is_annotated(name)]

    async def run(self, names: Sequence[str], urls: Sequence[str]) -> None:
        """Annotate videos, many at a time, so that there is always a request waiting to be sent."""
        if not names:
            return
        clients = ClientPool(urls, self.config.client)
        num_done = len(self.fingerprints) - len(names)
        with tqdm(
            total=len(self.fingerprints), initial=num_done, desc="annotating", unit="video"
        ) as bar:
            refreshing = asyncio.create_task(_refresh(bar, clients))
            try:
                await self._annotate_all(names, clients, bar)
            finally:
                refreshing.cancel()
                bar.set_postfix_str(clients.describe())
                await clients.close()

    def _is_annotated(self, name: str) -> bool:
        folder = self.out / "videos" / name
        return read_annotation(folder, self.fingerprints[name]) is not None

    async def _annotate_all(
        self, names: Sequence[str], clients: ClientPool, bar: tqdm[Any]
    ) -> None:
        """Start each video when an earlier one has been read and there is a free slot for it."""
        queue = iter(enumerate(names))
        slots = asyncio.Semaphore(self.config.client.max_concurrent_videos)

        async def annotate_one(name: str, index: int, is_read: asyncio.Event) -> None:
            async with slots:
                await self._annotate(name, clients, index, is_read)
            is_read.set()
            bar.update()

        async def start_videos() -> None:
            for index, name in queue:
                is_read = asyncio.Event()
                group.create_task(annotate_one(name, index, is_read))
                await is_read.wait()

        async with task_group() as group:
            for _ in range(self.config.client.max_concurrent_reads):
                group.create_task(start_videos())

    async def _annotate(
        self, name: str, clients: ClientPool, index: int, is_read: asyncio.Event
    ) -> None:
        """Annotate one video, unless another process works on it or has finished it."""
        folder = self.out / "videos" / name
        try:
            lock = dir_lock(folder).acquire(timeout=0)
        except Timeout:
            return
        with lock:
            if self._is_annotated(name):
                return
            with ResponseCache(folder / CACHE_NAME) as cache:
                try:
                    video = await asyncio.to_thread(VideoFile.open, self.videos, name)
                    teacher = Teacher(clients, self.model, self.config, cache, index)
                    annotation = await annotate_video(video, teacher, is_read)
                except (VideoError, InvalidResponseError) as error:
                    self._add_failure(name, error, cache)
                    return
            link = os.path.relpath((self.videos / name).resolve(), folder.resolve())
            with atomic_write(folder / PAGE_NAME) as page:
                page.write(render_page(annotation, link))
            write_annotation(folder, self.fingerprints[name], annotation)

    def _add_failure(
        self, name: str, error: VideoError | InvalidResponseError, cache: ResponseCache
    ) -> None:
        """Continue without a video, unless too many have failed."""
        self.failed[name] = Failure(str(error), cache.usage)
        if len(self.failed) > self.config.max_failed_videos:
            raise TeacherError(
                f"{name}: {error} {len(self.failed)} videos failed, more than"
                f" videomarathon.max_failed_videos={self.config.max_failed_videos}."
            ) from error


async def _refresh(bar: tqdm[Any], clients: ClientPool) -> None:
    """Update the progress bar until cancelled."""
    while True:
        bar.set_postfix_str(clients.describe())
        await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)
