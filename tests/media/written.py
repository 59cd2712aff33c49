"""Small videos whose every frame shows its own number, so that a test knows which frame it was given."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from lit_hour.media.video_reader import OnDecodeError, read_frames
from lit_hour.types import Frames

NUM_STRIPES = 8  # black or white, the bits of the number


def numbered_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture `(height, width, 3)` uint8 of vertical stripes that spell a number below 256."""
    bits = [number >> bit & 1 for bit in range(NUM_STRIPES)]
    stripes = np.repeat(np.array(bits, dtype=np.uint8) * 255, width // NUM_STRIPES)
    return np.broadcast_to(stripes[None, :, None], (height, width, 3)).copy()


def numbered(num_frames: int) -> list[np.ndarray]:
    """Pictures that show 0, 1, 2 and so on."""
    return [numbered_picture(number) for number in range(num_frames)]


def numbers_of(images: Tensor) -> list[int]:
    """The number that each picture of `(frames, 3, height, width)` shows."""
    stripes = (
        images.float().mean(dim=(1, 2)).unflatten(1, (NUM_STRIPES, -1)).mean(dim=2)
    )  # (frames, stripes)
    weights = 2 ** torch.arange(NUM_STRIPES)  # (stripes,)
    return [int(number) for number in ((stripes > 128) * weights).sum(dim=1)]


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    ticks_per_second: int = 10,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation_degrees: int = 0,
    container_options: dict[str, str] | None = None,
    audio_seconds: float = 0.0,
) -> Path:
    """Encode pictures `(height, width, 3)`, shown at `times` in ticks (default: one each tick), and silence if asked."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(
            codec, rate=ticks_per_second, time_base=Fraction(1, ticks_per_second)
        )
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        silence = container.add_stream("aac", rate=8000, layout="mono") if audio_seconds else None
        for time, picture in zip(
            times if times is not None else range(len(pictures)), pictures, strict=True
        ):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, ticks_per_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if silence is not None:
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, int(audio_seconds * 8000)), np.float32), "fltp", "mono"
            )
            sound.sample_rate, sound.pts = 8000, 0
            container.mux(silence.encode(sound))
            container.mux(silence.encode())
    return path


def read_all(
    path: Path,
    timestamps: Sequence[float],
    size_pixels: int = 64,
    on_damage: OnDecodeError = "raise",
) -> Frames:
    """All chunks of `read_frames` as one."""
    chunks = list(read_frames(path, timestamps, size_pixels, on_damage, chunk_frames=7))
    return Frames(
        torch.cat([chunk.images for chunk in chunks]),
        torch.cat([chunk.timestamps for chunk in chunks]),
    )
