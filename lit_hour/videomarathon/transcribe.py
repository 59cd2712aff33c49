"""Write the speech in videos as subtitles beside them: `transcribe`, for `lit-hour transcribe`.

Any server with OpenAI's interface for transcriptions does; `lit-hour pack` takes the subtitles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from tqdm import tqdm

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import InvalidResponseError, TeacherError, VideoError
from lit_hour.io.atomic import atomic_write_text
from lit_hour.media.audio import iter_wav_pieces
from lit_hour.media.subtitles import find_subtitle_file, format_srt
from lit_hour.types import Subtitle
from lit_hour.videomarathon.llm_client import API_KEY_VARIABLE
from lit_hour.videomarathon.video_clips import find_videos

PIECE_SECONDS = 600.0  # of sound in a request: 19 MB, below the usual limit of 25 MB


@dataclass(frozen=True)
class TranscriptionSummary:
    """Totals of a folder.

    Attributes:
        num_written: subtitle files that were written.
        num_present: videos that had subtitles already.
        silent: videos without sound or speech.
        failed: why other videos have no subtitles, by name.
    """

    num_written: int
    num_present: int
    silent: tuple[str, ...]
    failed: dict[str, str]


def transcribe(
    folder: Path, url: str, model: str, config: VideoMarathonConfig
) -> TranscriptionSummary:
    """Write `VIDEO.srt` beside each video of a folder that has no subtitles.

    A file is written when its video is complete, so the same call goes on after an interruption.

    Args:
        folder: videos may be at any depth.
        url: of the server, up to and including the version: `http://localhost:8000/v1`.
        model: name of the speech model on the server.
        config: section `videomarathon`; its `client` holds timeout, retries and concurrency.

    Raises:
        TeacherError: there is no video, the server does not answer, or more videos than
            `videomarathon.max_failed_videos` failed.
    """
    names = find_videos(folder)
    missing = [name for name in names if find_subtitle_file(folder / name) is None]
    client = openai.OpenAI(
        base_url=url,
        api_key=os.environ.get(API_KEY_VARIABLE) or "none",
        timeout=config.client.timeout_seconds,
        max_retries=config.client.max_retries,
    )
    failed: dict[str, str] = {}
    silent: list[str] = []

    def transcribe_one(name: str) -> None:
        try:
            subtitles = tuple(_transcribe_video(folder / name, client, model))
        except (VideoError, InvalidResponseError) as error:
            failed[name] = str(error)
            return
        if not subtitles:
            silent.append(name)
            return
        atomic_write_text((folder / name).with_suffix(".srt"), format_srt(subtitles))

    num_threads = config.client.max_concurrent_reads
    with client, ThreadPoolExecutor(num_threads) as executor:
        for _ in tqdm(
            executor.map(transcribe_one, missing),
            total=len(missing),
            desc="transcribing",
            unit="video",
        ):
            if len(failed) > config.max_failed_videos:
                executor.shutdown(wait=True, cancel_futures=True)
                name, reason = next(iter(failed.items()))
                raise TeacherError(
                    f"{name}: {reason} {len(failed)} videos failed, more than"
                    f" videomarathon.max_failed_videos={config.max_failed_videos}."
                )
    num_written = len(missing) - len(silent) - len(failed)
    return TranscriptionSummary(
        num_written, len(names) - len(missing), tuple(sorted(silent)), failed
    )


def format_transcription_report(folder: Path, summary: TranscriptionSummary) -> str:
    """Return how many videos have subtitles, and why others have none."""
    lines = [
        f"{folder}: {summary.num_written} videos transcribed, {summary.num_present} had subtitles"
    ]
    lines += [f"no speech in {name}" for name in summary.silent]
    lines += [f"failed {name}: {reason}" for name, reason in summary.failed.items()]
    return "\n".join(lines)


def _transcribe_video(path: Path, client: openai.OpenAI, model: str) -> Iterator[Subtitle]:
    """Yield the segments of speech in a video, with times from its first frame."""
    for start_seconds, wav in iter_wav_pieces(path, PIECE_SECONDS):
        try:
            response = client.audio.transcriptions.create(
                model=model, file=("sound.wav", wav), response_format="verbose_json"
            )
        except openai.APIStatusError as error:
            if error.status_code in (401, 403, 404):
                raise TeacherError(f"The speech server refuses: {error.message}") from error
            raise InvalidResponseError(f"{path}: {error.message}") from error
        except openai.APIError as error:
            raise TeacherError(
                f"The speech server at {client.base_url} does not answer: {error.message}"
            ) from error
        yield from _parse_segments(response, start_seconds, path)


def _parse_segments(response: Any, start_seconds: float, path: Path) -> Iterator[Subtitle]:
    """Yield the segments of a response; those without text are left out.

    Raises:
        InvalidResponseError: it has no segments with times.
    """
    try:
        for segment in response.segments:
            start, end, text = float(segment.start), float(segment.end), segment.text.strip()
            if text and end + start_seconds > 0:
                yield Subtitle(max(start + start_seconds, 0.0), end + start_seconds, text)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidResponseError(
            f"{path}: the response has no segments with start, end and text ({error}). Give a"
            " speech model that returns verbose_json."
        ) from error
