"""Small video and audio files of any container and codec."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile

import av
import numpy as np

FPS = 5
SAMPLE_RATE = 48000


def make_clip(
    container_format: str = "mp4",
    codec: str = "libx264",
    seconds: float = 4.0,
    size: tuple[int, int] = (96, 48),
    gap_seconds: float = 0.0,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return a video that gets brighter; the last frame comes `gap_seconds` late."""
    with (
        NamedTemporaryFile() as file,
        av.open(file.name, "w", format=container_format, options=options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=FPS, width=size[0], height=size[1])
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = FPS
        num_frames = int(seconds * FPS)
        blocks = (size[1] // 8, size[0] // 8, 3)
        noise = np.random.default_rng(0).integers(0, 60, blocks, dtype=np.uint8)
        for index in range(num_frames):
            brighter = noise + np.uint8(190 * index // num_frames)
            pixels = np.kron(brighter, np.ones((8, 8, 1), np.uint8))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            is_last = index == num_frames - 1
            frame.pts = index + (int(gap_seconds * FPS) if is_last else 0)
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        container.close()
        return Path(file.name).read_bytes()


def make_audio_file(container_format: str, codec: str, seconds: float = 2.0) -> bytes:
    """Return a file with an audio stream only."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=SAMPLE_RATE)
        resampler = av.AudioResampler(
            format=stream.format, layout=stream.layout, rate=SAMPLE_RATE, frame_size=960
        )
        times = np.arange(int(SAMPLE_RATE * seconds))
        samples = (np.sin(times / 20) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = SAMPLE_RATE
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return buffer.getvalue()
