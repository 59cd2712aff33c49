"""Small files of all kinds, made on the spot."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile

import av
import numpy as np

RATE = 5


def clip(
    form: str = "mp4",
    codec: str = "libx264",
    seconds: float = 4.0,
    size: tuple[int, int] = (96, 48),
    gap_seconds: float = 0.0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video whose colour changes; the last frame comes so much later."""
    with (
        NamedTemporaryFile() as file,
        av.open(file.name, "w", format=form, options=options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=RATE, width=size[0], height=size[1])
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = RATE
        count = int(seconds * RATE)
        noise = np.random.default_rng(0).integers(
            0, 60, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8
        )
        for place in range(count):
            pixels = np.kron(noise + np.uint8(190 * place // count), np.ones((8, 8, 1), np.uint8))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = place + (int(gap_seconds * RATE) if place == count - 1 else 0)
            frame.time_base = Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        container.close()
        return Path(file.name).read_bytes()


def sound(form: str, codec: str, seconds: float = 2.0) -> bytes:
    """A file that is only heard."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48000)
        resampler = av.AudioResampler(
            format=stream.format, layout=stream.layout, rate=48000, frame_size=960
        )
        samples = (np.sin(np.arange(int(48000 * seconds)) / 20) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 48000
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return buffer.getvalue()
