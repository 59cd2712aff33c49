"""What the tests of this room pack: tiny encoded videos, and the settings for them."""

from pathlib import Path

import av
import numpy as np

from lit_hour.config.schema import PackConfig, VideoConfig

VIDEO = VideoConfig(min_frames=4, max_frames=6, image_size=32)
SETTINGS = PackConfig(videos_per_shard=2, num_workers=1)
NAMES = ("a.mp4", "b.mp4", "c.1.mp4", "more/d e.mp4", "more/f.mp4")


def write_video(
    path: Path, num_seconds: int, frames_per_second: int = 5, size_pixels: int = 48
) -> None:
    """A moving gradient, encoded with MPEG-4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, size_pixels, dtype=np.uint8)
    picture = np.stack(
        np.broadcast_arrays(ramp, ramp[:, None], ramp[::-1]), axis=-1
    )  # (size, size, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=frames_per_second)
        stream.width = stream.height = size_pixels
        for number in range(num_seconds * frames_per_second):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
