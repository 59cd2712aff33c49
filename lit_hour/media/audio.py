"""Read the sound of a video in pieces, as WAV files for speech recognition (`iter_wav_pieces`)."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
from av.audio.resampler import AudioResampler

from lit_hour.errors import VideoError
from lit_hour.media.video_probe import open_video

SAMPLE_RATE = 16_000  # in 1/s, as speech models use
BYTES_PER_SAMPLE = 2


def iter_wav_pieces(path: Path, piece_seconds: float) -> Iterator[tuple[float, bytes]]:
    """Yield the sound of a video in pieces: the start in the video in seconds, and a WAV file.

    Times are counted from the first frame of the picture, as those of frames are. Sound behind a
    damaged packet is not read. A video without sound has no piece.

    Args:
        path: of the video.
        piece_seconds: longest piece.

    Raises:
        VideoError: the file cannot be opened.
    """
    limit = int(piece_seconds * SAMPLE_RATE) * BYTES_PER_SAMPLE
    with open_video(path) as (container, stream):
        if not container.streams.audio:
            return
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        sound = container.streams.audio[0]
        picture_start = float((stream.start_time or 0) * (stream.time_base or 0))
        start_seconds, samples = None, bytearray()
        try:
            with suppress(av.FFmpegError):  # the sound before the damage is used
                for frame in container.decode(sound):
                    if start_seconds is None:
                        start_seconds = (frame.time or 0.0) - picture_start
                    for resampled in resampler.resample(frame):
                        samples += resampled.to_ndarray().tobytes()  # (1, samples)
                    while len(samples) >= limit:
                        yield start_seconds, _to_wav(samples[:limit])
                        del samples[:limit]
                        start_seconds += limit / BYTES_PER_SAMPLE / SAMPLE_RATE
        except ValueError as error:  # a format that cannot be resampled
            raise VideoError(f"The sound of {path} cannot be read: {error}.") from error
        if samples and start_seconds is not None:
            yield start_seconds, _to_wav(samples)


def _to_wav(samples: bytes | bytearray) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(BYTES_PER_SAMPLE)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(bytes(samples))
    return content.getvalue()
