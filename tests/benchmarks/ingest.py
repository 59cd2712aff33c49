"""How fast and in how much memory a video becomes sampled frames: python tests/benchmarks/ingest.py [MINUTES] [ROUNDS]

Made-up videos of H.264 (moving scenes with grain, 2.5 Mbit/s at 720p and 0.8 at 360p, key frames each 10 s or 2 s, B-frames)
are read at one frame a second to squares of 384 pixels: by this project, by plain PyAV, and by decord and torchcodec if they
are installed. Everybody reads in a process of its own and in turns, several rounds; the best round counts. Ratios are ours to
theirs. Core seconds are those of all threads: they say more than seconds on a machine with other work. The memory is what is
added to that of the loaded libraries. The limit is PyAV with all threads, decoding every frame and converting none.
"""

# ruff: noqa: E402  (the checkout comes first on the path)
from __future__ import annotations

import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).parents[2])]

import av
import numpy as np
import torch
from PIL import Image

from lit_hour.video.decode import probe, read_frames
from tests.video.looped import loop_video

SIZE_PIXELS, FRAMES_AT_ONCE, CLIP_FRAMES, FRAMES_PER_SECOND, SCENE_FRAMES = 384, 64, 500, 25, 175
VIDEOS = {"720p, key frame each 10 s": (1280, 720, 250, 2_500_000), "720p, each 2 s": (1280, 720, 50, 2_500_000),
          "360p, each 10 s": (640, 360, 250, 800_000)}  # fmt: skip


def make_pictures(width: int, height: int) -> Iterator[np.ndarray]:
    """A camera that moves over made-up scenes, with a cut every few seconds and the grain of a sensor."""
    random = np.random.default_rng(0)
    grain = random.normal(0, 2.5, (height, width, 1)).astype(np.int16)
    scene, speed = np.empty(0), np.empty(0)
    for number in range(CLIP_FRAMES):
        step = number % SCENE_FRAMES
        if step == 0:
            wide, high = width * 3 // 2, height * 3 // 2
            noise = [random.integers(0, 256, (high // side, wide // side, 3), dtype=np.uint8) for side in (128, 24, 5)]
            layers = [np.asarray(Image.fromarray(layer).resize((wide, high), Image.Resampling.BICUBIC)) for layer in noise]
            scene = np.average(layers, axis=0, weights=(0.6, 0.28, 0.12)).astype(np.int16)
            speed = random.uniform(-1, 1, 2) * (width, height) / 4 / SCENE_FRAMES
        left, top = (np.array([width, height]) / 4 + speed * step).astype(int)
        shift = int(random.integers(grain.size))
        yield np.clip(scene[top : top + height, left : left + width] + np.roll(grain, shift), 0, 255).astype(np.uint8)


def write_video(path: Path, minutes: float, width: int, height: int, key_frame_distance: int, bits_per_second: int) -> None:
    """Encode a clip and repeat it."""
    clip = path.with_stem(f"{path.stem}_clip")
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "medium"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", bits_per_second
        stream.gop_size = key_frame_distance
        for picture in make_pictures(width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    loop_video(clip, path, minutes * 60)


def read_ours(path: Path, timestamps: list[float], key_frames_only: bool = False) -> int:
    """This project."""
    chunks = read_frames(probe(path), timestamps, SIZE_PIXELS, "error", FRAMES_AT_ONCE, key_frames_only)
    return sum(len(frames) for frames in chunks)


def read_key_frames(path: Path, timestamps: list[float]) -> int:
    """This project, key frames only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        num_read = read_ours(path, timestamps, key_frames_only=True)
    print("   ", str(caught[-1].message).rpartition("frames: ")[2], flush=True)
    return num_read


def read_pyav(path: Path, timestamps: list[float]) -> int:
    """PyAV as its manual shows it: decode one frame after the other, resize those that are wanted."""
    images: list[torch.Tensor] = []
    with av.open(str(path)) as container:
        frames = pairwise(container.decode(video=0))
        while len(images) < len(timestamps):
            shown, following = next(frames)
            if following.time > timestamps[len(images)] + 1e-6:
                picture = shown.to_image().resize((SIZE_PIXELS, SIZE_PIXELS), Image.Resampling.BICUBIC)
                images.append(torch.from_numpy(np.array(picture)))  # (size, size, 3)
    return len(images)


def read_decord(path: Path, timestamps: list[float]) -> int:
    """decord, which resizes with bilinear interpolation and knows frames by number."""
    from decord import VideoReader

    reader = VideoReader(str(path), width=SIZE_PIXELS, height=SIZE_PIXELS)
    numbers = [round(seconds * FRAMES_PER_SECOND) for seconds in timestamps]
    chunks = range(0, len(numbers), FRAMES_AT_ONCE)
    return sum(len(reader.get_batch(numbers[start : start + FRAMES_AT_ONCE]).asnumpy()) for start in chunks)


def read_torchcodec(path: Path, timestamps: list[float]) -> int:
    """torchcodec, and torch's resize with antialiasing."""
    from torchcodec.decoders import VideoDecoder

    decoder, num_read = VideoDecoder(str(path), num_ffmpeg_threads=0), 0
    for start in range(0, len(timestamps), FRAMES_AT_ONCE):
        images = decoder.get_frames_played_at(timestamps[start : start + FRAMES_AT_ONCE]).data  # (frames, 3, height, width)
        size = (SIZE_PIXELS, SIZE_PIXELS)
        num_read += len(
            torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
        )  # (frames, 3, size, size)
    return num_read


def decode_only(path: Path, timestamps: list[float]) -> int:
    """The limit of those who decode every frame."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass
    return len(timestamps)


READERS: dict[str, tuple[Callable[[Path, list[float]], int], str]] = {
    "lit_hour": (read_ours, "av"),
    "lit_hour, key frames": (read_key_frames, "av"),
    "PyAV": (read_pyav, "av"),
    "decord": (read_decord, "decord"),
    "torchcodec": (read_torchcodec, "torchcodec"),
    "limit: decode all, convert none": (decode_only, "av"),
}


def peak_megabytes() -> float:
    """The greatest memory of this process; what getrusage says begins with that of the parent."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def measure(name: str, path: Path, timestamps: list[float]) -> tuple[float, float, float]:
    """Seconds, seconds of all cores, and MB of memory above that of the loaded libraries, of one reader in a new process."""
    reader, module = READERS[name]
    import_module(module)  # is not reading
    loaded, started, busy = peak_megabytes(), time.perf_counter(), time.process_time()
    assert reader(path, timestamps) == len(timestamps)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return seconds, busy, peak_megabytes() - loaded


def is_installed(module: str) -> bool:
    """Whether a peer is there and can be loaded: torchcodec needs the shared libraries of FFmpeg."""
    try:
        import_module({"torchcodec": "torchcodec.decoders", "av": "av", "decord": "decord"}[module])
        return bool(version(module))
    except PackageNotFoundError:
        print(f"{module} is not installed: left out")
    except (OSError, RuntimeError) as error:
        print(f"{module} cannot be loaded: left out ({str(error).splitlines()[0]})")
    return False


def main(minutes: float, num_rounds: int) -> None:
    """Write the videos, read each by everyone, and print a line for each."""
    names = [name for name, (_, module) in READERS.items() if is_installed(module)]
    timestamps = [float(second) for second in range(round(minutes * 60))]
    with TemporaryDirectory() as folder:
        for title, settings in VIDEOS.items():
            path = Path(folder) / "video.mp4"
            write_video(path, minutes, *settings)
            print(f"{title}: {minutes:g} minutes, {path.stat().st_size * 8 / minutes / 6e7:.1f} Mbit/s", flush=True)
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
            for _ in range(num_rounds):
                for name in names:
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                        found[name].append(process.submit(measure, name, path, timestamps).result())
            ours = [min(column) for column in zip(*found["lit_hour"], strict=True)]
            print(f"{'':32s}   seconds    ratio   core seconds    ratio     MB")
            for name in names:
                seconds, busy, peak = (min(column) for column in zip(*found[name], strict=True))
                print(
                    f"{name:32s} {seconds:9.1f} {ours[0] / seconds:8.2f} {busy:14.1f} {ours[1] / busy:8.2f} {peak:6.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
