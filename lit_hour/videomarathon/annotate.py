"""A folder of videos and model servers in, a folder of annotations out, with the question file that `pack` reads.

    OUT/questions.json      the questions that were kept
    OUT/dropped.jsonl       the others, each with the filter that dropped it and its reason
    OUT/totals.json         counts, tokens and cost
    OUT/charts/             sources, questions, durations, events: PNG files, and tensorboard/
    OUT/videos/NAME/        of each video what `annotation` describes, and index.html to look at

Any number of processes may fill one folder: each takes videos that no other works on, or a share of the videos that is its
own. A process that is killed leaves every answer that it had in the journals; the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import InvalidResponseError, TeacherError, VideoError
from lit_hour.io.atomic import whole
from lit_hour.io.file_lock import locked, locked_if_free
from lit_hour.videomarathon.aggregate import Failure, Share, Totals, aggregate
from lit_hour.videomarathon.annotation import (
    JOURNAL_NAME,
    annotate_video,
    fingerprint,
    is_annotated,
    write_annotation,
)
from lit_hour.videomarathon.llm_client import ClientPool, task_group
from lit_hour.videomarathon.response_cache import ResponseCache
from lit_hour.videomarathon.review_html import render_page
from lit_hour.videomarathon.teacher import Teacher
from lit_hour.videomarathon.video_clips import VideoFile, find_videos

PAGE_NAME = "index.html"
SECONDS_BETWEEN_LOOKS = 1.0  # at what passed between us and the servers


def annotate(
    videos: Path, out: Path, urls: Sequence[str], model: str, settings: VideoMarathonConfig
) -> Totals:
    """Annotate every video of a folder that is not annotated yet, and gather the questions of all that are.

    Args:
        videos: folder; videos lie in it at any depth.
        out: folder of the annotations; made when missing.
        urls: of the servers, up to and with the version: `http://localhost:8000/v1`.
        model: name by which the servers know it.

    Raises:
        TeacherError: there is no video, no server answers, or more videos failed than `videomarathon.max_failed_videos`.
    """
    run = annotate_share(Share(), videos, out, urls, model, settings)
    try:
        with locked(out):
            return aggregate(out, run.fingerprints, settings, run.failed)
    except OSError as error:
        raise TeacherError(f"{out} cannot be filled: {error}") from error


def annotate_share(
    share: Share,
    videos: Path,
    out: Path,
    urls: Sequence[str],
    model: str,
    settings: VideoMarathonConfig,
) -> AnnotationJob:
    """Annotate every video of a share that is not annotated yet, and gather nothing; otherwise as `annotate`."""
    names = share.select(find_videos(videos))
    try:
        run = AnnotationJob(
            videos,
            out,
            model,
            settings,
            {name: fingerprint(videos / name, model, settings) for name in names},
        )
        asyncio.run(run.run(run.unfinished(), urls))
    except OSError as error:
        raise TeacherError(f"{out} cannot be filled: {error}") from error
    return run


@dataclass
class AnnotationJob:
    """One process at work.

    Attributes:
        marks: fingerprint that the annotation of each of its videos has to have, by the video's name.
        failed: of each video that failed, why, and what was asked about it.
    """

    videos: Path
    out: Path
    model: str
    settings: VideoMarathonConfig
    fingerprints: dict[str, str]
    failed: dict[str, Failure] = field(default_factory=dict)

    def unfinished(self) -> list[str]:
        """The videos that are not annotated."""
        return [
            name
            for name, mark in self.fingerprints.items()
            if not is_annotated(self.out / "videos" / name, mark)
        ]

    async def run(self, missing: Sequence[str], urls: Sequence[str]) -> None:
        """Annotate these videos, many side by side, so that there are always requests that wait to be sent."""
        if not missing:
            return
        servers = ClientPool(urls, self.settings.client)
        num_done = len(self.fingerprints) - len(missing)
        with tqdm(
            total=len(self.fingerprints), initial=num_done, desc="annotating", unit="video"
        ) as bar:
            showing = asyncio.create_task(show(bar, servers))
            try:
                await self._share_out(missing, servers, bar)
            finally:
                showing.cancel()
                bar.set_postfix_str(servers.describe())
                await servers.close()

    async def _share_out(self, missing: Sequence[str], servers: ClientPool, bar: tqdm[Any]) -> None:
        """Begin each video when the one before is read, and there is room for it."""
        queue, room = (
            iter(enumerate(missing)),
            asyncio.Semaphore(self.settings.client.max_concurrent_videos),
        )

        async def annotate_one(name: str, place: int, is_read: asyncio.Event) -> None:
            async with room:
                await self._annotate(name, servers, place, is_read)
            is_read.set()
            bar.update()

        async def begin_each() -> None:
            for place, name in queue:
                is_read = asyncio.Event()
                group.create_task(annotate_one(name, place, is_read))
                await is_read.wait()

        async with task_group() as group:
            for _ in range(self.settings.client.max_concurrent_reads):
                group.create_task(begin_each())

    async def _annotate(
        self, name: str, servers: ClientPool, place: int, is_read: asyncio.Event
    ) -> None:
        """Annotate one video, unless another process is at it or has been."""
        folder, mark = self.out / "videos" / name, self.fingerprints[name]
        with locked_if_free(folder) as is_ours:
            if not is_ours or is_annotated(folder, mark):
                return
            with ResponseCache(folder / JOURNAL_NAME) as journal:
                try:
                    footage = await asyncio.to_thread(VideoFile.open, self.videos, name)
                    teacher = Teacher(servers, self.model, self.settings, journal, place)
                    annotation = await annotate_video(footage, teacher, is_read)
                except (VideoError, InvalidResponseError) as error:
                    self._take_failure(name, error, journal)
                    return
            with whole(folder / PAGE_NAME) as page:
                page.write(
                    render_page(
                        annotation, os.path.relpath(footage.path.resolve(), folder.resolve())
                    )
                )
            write_annotation(folder, mark, annotation)

    def _take_failure(
        self, name: str, error: VideoError | InvalidResponseError, journal: ResponseCache
    ) -> None:
        """Go on without a video, unless too many failed."""
        self.failed[name] = Failure(str(error), journal.usage)
        if len(self.failed) > self.settings.max_failed_videos:
            raise TeacherError(
                f"{name}: {error} ({len(self.failed)} videos failed, videomarathon.max_failed_videos is {self.settings.max_failed_videos})"
            ) from error


async def show(bar: tqdm[Any], servers: ClientPool) -> None:
    """Keep the progress bar up to date; for ever."""
    while True:
        bar.set_postfix_str(servers.describe())
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
