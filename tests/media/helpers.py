"""Images and small videos for tests; each frame of a video shows its own number."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_hour.media.video_reader import OnDecodeError, read_frames
from lit_hour.types import Frames

NUM_STRIPES = 8  # black or white, the bits of a frame number


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image without equal parts."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def gradient_image(width: int, height: int) -> Image.Image:
    """Return an image in which red grows to the right and green downwards; blue is 200."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 200
    return Image.fromarray(image)


def encode_image(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def numbered_image(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return `(height, width, 3)` uint8 with vertical stripes that encode a number below 256."""
    bits = [number >> bit & 1 for bit in range(NUM_STRIPES)]
    stripes = np.repeat(np.array(bits, dtype=np.uint8) * 255, width // NUM_STRIPES)
    return np.broadcast_to(stripes[None, :, None], (height, width, 3)).copy()


def numbered_images(num_frames: int) -> list[np.ndarray]:
    """Return images that show 0, 1, 2 and so on."""
    return [numbered_image(number) for number in range(num_frames)]


def numbers_in(images: Tensor) -> list[int]:
    """Return the number that each image of `(frames, 3, height, width)` shows."""
    columns = images.float().mean(dim=(1, 2))  # (frames, width)
    stripes = columns.unflatten(1, (NUM_STRIPES, -1)).mean(dim=2)  # (frames, stripes)
    weights = 2 ** torch.arange(NUM_STRIPES)  # (stripes,)
    return [int(number) for number in ((stripes > 128) * weights).sum(dim=1)]


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    ticks_per_second: int = 10,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation_degrees: int = 0,
    display_matrix: Sequence[int] | None = None,
    pixel_ratio: Fraction | None = None,
    encoder_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio_seconds: float = 0.0,
) -> Path:
    """Encode images `(height, width, 3)`, and silence if `audio_seconds` is positive.

    Frames are shown at `times` in ticks; by default one at each tick.
    """
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        time_base = Fraction(1, ticks_per_second)
        stream = container.add_stream(
            codec, rate=ticks_per_second, options=encoder_options, time_base=time_base
        )
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        if pixel_ratio is not None:
            stream.codec_context.sample_aspect_ratio = pixel_ratio
        silence = container.add_stream("aac", rate=8000, layout="mono") if audio_seconds else None
        for time, image in zip(times or range(len(images)), images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if silence is not None:
            samples = np.zeros((1, int(audio_seconds * 8000)), np.float32)
            audio = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            audio.sample_rate, audio.pts = 8000, 0
            container.mux(silence.encode(audio))
            container.mux(silence.encode())
    return path


def write_moving(
    path: Path, num_frames: int, times: list[int] | None = None, **options: str
) -> Path:
    """Encode a bright bar that moves over noise by x264."""
    noise = np.random.default_rng(0).integers(0, 120, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"preset": "veryfast", "bf": "3", **options}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            image = noise.copy()
            image[:, number % 56 : number % 56 + 8] += 100
            frame = av.VideoFrame.from_ndarray(np.roll(image, number // 3, axis=0), format="rgb24")
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def loop_video(source: Path, target: Path, duration_seconds: float) -> None:
    """Repeat a video, without encoding it again, until it lasts about `duration_seconds`.

    This makes an hour of real video in a second. The last repetition stops at the first packet, in
    decoding order, past the end, so no frame lacks a reference. Decoding times are new, because
    some mkv files have none. PyAV cannot copy AV1.
    """
    with av.open(str(source)) as clip, av.open(str(target), "w") as looped:
        stream = clip.streams.video[0]
        copy = looped.add_stream_from_template(stream)
        packets = [packet for packet in clip.demux(stream) if packet.pts is not None]
        time_base = packets[0].time_base
        first = min(packet.pts for packet in packets)
        shown = [packet.pts - first for packet in packets]
        durations = [packet.duration for packet in packets]
        length = max(pts + duration for pts, duration in zip(shown, durations, strict=True))
        delay = max(in_order - pts for in_order, pts in zip(sorted(shown), shown, strict=True))
        start, end = 0, round(duration_seconds / time_base)
        while start < end:
            for packet, pts, in_order, duration in zip(
                packets, shown, sorted(shown), durations, strict=True
            ):
                if start + pts >= end:
                    break
                packet.pts, packet.dts = start + pts, start + in_order - delay
                # Muxing has rescaled these.
                packet.duration, packet.time_base, packet.stream = duration, time_base, copy
                looped.mux(packet)
            start += length


def copy_packets(source: Path, target: Path, shift_seconds: float = 0.0, **options: str) -> Path:
    """Copy the packets of a video into another container, later by some seconds."""
    with av.open(str(source)) as clip, av.open(str(target), "w", container_options=options) as copy:
        stream = clip.streams.video[0]
        copied = copy.add_stream_from_template(stream)
        for packet in clip.demux(stream):
            if packet.size:
                shift = round(shift_seconds / packet.time_base)
                packet.pts += shift
                packet.dts += shift
                packet.stream = copied
                copy.mux(packet)
    return target


def join_files(target: Path, *sources: Path) -> Path:
    """Append files to one another, as the command `cat` does."""
    target.write_bytes(b"".join(source.read_bytes() for source in sources))
    return target


def read_all(
    path: Path,
    timestamps: Sequence[float],
    image_size: int = 64,
    on_decode_error: OnDecodeError = "raise",
) -> Frames:
    """Return all chunks of `read_frames` as one."""
    chunks = list(read_frames(path, timestamps, image_size, on_decode_error, chunk_frames=7))
    return Frames(
        torch.cat([chunk.images for chunk in chunks]),
        torch.cat([chunk.timestamps for chunk in chunks]),
    )
