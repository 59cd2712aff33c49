"""Target 1: time and memory to read a video file as sampled frames.

Synthetic H.264 videos (moving scenes with grain, 2.5 Mbit/s at 720p and 0.8 at 360p, a key frame
every 10 s or 2 s, B-frames) are read at one frame per second and resized to 384 x 384 pixels: by
this project, by PyAV as its documentation shows, and by decord and torchcodec if they can be
loaded. Each reader runs in a new process, in alternating rounds, and the best round counts. Memory
is measured above that of the loaded libraries.

decord and PyAV return frames at full size, which PIL resizes, as in this project and in the
published reader. decord selects frames by number, which is equivalent at a constant frame rate.
decord's own resize and torchcodec with torch's resize are rows for comparison, and so are the
limits of decode_limits.py.
"""

from __future__ import annotations

import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lit_hour.media.selective_decoding import num_available_cpus
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import read_frames
from tests.benchmarks.speed.decode_limits import EXACT_LIMITS, LIMITS, decoder_seconds
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.media.helpers import loop_video

SIZE_PIXELS, FRAMES_AT_ONCE = 384, 64
FRAMES_PER_SECOND, CLIP_FRAMES, SCENE_FRAMES = 25, 500, 175
MINUTES, LONG_MINUTES, NUM_ROUNDS = 3, 60, 2
MAX_MEGABYTES = 300
# width, height, frames between key frames, bits per second
VIDEOS = {
    "720p, a key frame each 10 s": (1280, 720, 250, 2_500_000),
    "720p, each 2 s": (1280, 720, 50, 2_500_000),
    "360p, each 10 s": (640, 360, 250, 800_000),
    "360p, each 2 s": (640, 360, 50, 800_000),
}
LONG_VIDEO = "360p, each 10 s"
EXACT_WHY = (
    "Unreferenced frames are skipped, and GOPs are decoded in parallel. Frames that others may"
    " refer to must be decoded, and PIL's resize of the shown ones must give PIL's bytes."
)
KEY_FRAMES_WHY = (
    "A key frame costs more to decode than other frames, and each shown one is converted and"
    " resized at full cost: with one every 2 s that is half of the requested frames."
)


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, CPU seconds of all threads, and MB above the loaded libraries."""

    seconds: float
    core_seconds: float
    megabytes: float


def draw_frames(width: int, height: int) -> Iterator[np.ndarray]:
    """Yield frames `(height, width, 3)` of a camera moving over random scenes.

    There is a cut every few seconds, and grain as of a sensor.
    """
    random = np.random.default_rng(0)
    grain = random.normal(0, 2.5, (height, width, 1)).astype(np.int16)
    scene, speed = np.empty(0), np.empty(0)
    for number in range(CLIP_FRAMES):
        step = number % SCENE_FRAMES
        if step == 0:
            wide, high = width * 3 // 2, height * 3 // 2
            noise = [
                random.integers(0, 256, (high // side, wide // side, 3), dtype=np.uint8)
                for side in (128, 24, 5)
            ]
            layers = [
                np.asarray(Image.fromarray(layer).resize((wide, high), Image.Resampling.BICUBIC))
                for layer in noise
            ]
            scene = np.average(layers, axis=0, weights=(0.6, 0.28, 0.12)).astype(np.int16)
            speed = random.uniform(-1, 1, 2) * (width, height) / 4 / SCENE_FRAMES
        left, top = (np.array([width, height]) / 4 + speed * step).astype(int)
        shift = int(random.integers(grain.size))
        view = scene[top : top + height, left : left + width]  # (height, width, 3)
        yield np.clip(view + np.roll(grain, shift), 0, 255).astype(np.uint8)


def write_clip(
    path: Path, width: int, height: int, key_frame_distance: int, bits_per_second: int
) -> None:
    """Encode a clip, which is then repeated."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FRAMES_PER_SECOND, options={"preset": "medium"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            width,
            height,
            "yuv420p",
            bits_per_second,
        )
        stream.gop_size = key_frame_distance
        for picture in draw_frames(width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def read_ours(path: Path, timestamps: list[float], keyframes_only: bool = False) -> int:
    """Read with this project."""
    chunks = read_frames(
        probe(path), timestamps, SIZE_PIXELS, "raise", FRAMES_AT_ONCE, keyframes_only
    )
    return sum(len(frames) for frames in chunks)


def read_key_frames(path: Path, timestamps: list[float]) -> int:
    """Read with this project, key frames only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        num_read = read_ours(path, timestamps, keyframes_only=True)
    print("   ", str(caught[-1].message).rpartition("frames: ")[2], flush=True)
    return num_read


def resize(image: Image.Image) -> torch.Tensor:
    """Resize a frame as the published reader does."""
    resized = image.resize((SIZE_PIXELS, SIZE_PIXELS), Image.Resampling.BICUBIC)
    small = np.array(resized)  # (size, size, 3)
    return torch.from_numpy(small.transpose(2, 0, 1).copy())  # (3, size, size)


def read_pyav(path: Path, timestamps: list[float]) -> int:
    """Read with PyAV as its documentation shows: decode every frame, resize the sampled ones."""
    num_read, chunk = 0, list[torch.Tensor]()
    with av.open(str(path)) as container:
        frames = pairwise(container.decode(video=0))
        while num_read < len(timestamps):
            shown, following = next(frames)
            if following.time > timestamps[num_read] + 1e-6:
                chunk = [*chunk, resize(shown.to_image())][-FRAMES_AT_ONCE:]
                num_read += 1
    return num_read


def read_decord(path: Path, timestamps: list[float]) -> int:
    """Read with decord: batches of frames at full size, then resized."""
    from decord import VideoReader

    reader, num_read = VideoReader(str(path)), 0
    numbers = [round(seconds * FRAMES_PER_SECOND) for seconds in timestamps]
    for start in range(0, len(numbers), FRAMES_AT_ONCE):
        chosen = numbers[start : start + FRAMES_AT_ONCE]
        batch = reader.get_batch(chosen).asnumpy()  # (frames, height, width, 3)
        num_read += len([resize(Image.fromarray(picture)) for picture in batch])
    return num_read


def read_decord_small(path: Path, timestamps: list[float]) -> int:
    """Read with decord and its own bilinear resize."""
    from decord import VideoReader

    reader = VideoReader(str(path), width=SIZE_PIXELS, height=SIZE_PIXELS)
    numbers = [round(seconds * FRAMES_PER_SECOND) for seconds in timestamps]
    chunks = range(0, len(numbers), FRAMES_AT_ONCE)
    return sum(
        len(reader.get_batch(numbers[start : start + FRAMES_AT_ONCE]).asnumpy()) for start in chunks
    )


def read_torchcodec(path: Path, timestamps: list[float]) -> int:
    """Read with torchcodec on all threads, and torch's antialiased resize."""
    from torchcodec.decoders import VideoDecoder

    decoder, num_read = VideoDecoder(str(path), num_ffmpeg_threads=0), 0
    resize_images = partial(F.interpolate, size=SIZE_PIXELS, mode="bicubic", antialias=True)
    for start in range(0, len(timestamps), FRAMES_AT_ONCE):
        chosen = timestamps[start : start + FRAMES_AT_ONCE]
        images = decoder.get_frames_played_at(chosen).data  # (frames, 3, height, width)
        num_read += len(resize_images(images))  # (frames, 3, size, size)
    return num_read


READERS: dict[str, tuple[Callable[[Path, list[float]], int], str]] = {
    "ours": (read_ours, "av"),
    "key frames": (read_key_frames, "av"),
    "PyAV": (read_pyav, "av"),
    "decord": (read_decord, "decord"),
    "decord's own resize": (read_decord_small, "decord"),
    "torchcodec": (read_torchcodec, "torchcodec.decoders"),
}


def peak_megabytes() -> float:
    """Return the peak memory of this process; getrusage would include the parent's."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def read_alone(name: str, path: Path, timestamps: list[float]) -> Cost:
    """Measure one reader; to be called in a new process."""
    reader, module = READERS[name]
    import_module(module)  # not part of reading
    loaded, started, cpu_started = peak_megabytes(), time.perf_counter(), time.process_time()
    assert reader(path, timestamps) == len(timestamps)
    return Cost(
        time.perf_counter() - started, time.process_time() - cpu_started, peak_megabytes() - loaded
    )


def run_round(name: str, path: Path, minutes: float) -> Cost:
    """Measure one round of one reader in a new process."""
    timestamps = [float(second) for second in range(round(minutes * 60))]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        cost = process.submit(read_alone, name, path, timestamps).result()
    times = f"{cost.seconds:6.1f} s {cost.core_seconds:6.1f} core s"
    print(f"    {name:20s} {times} {cost.megabytes:5.0f} MB", flush=True)
    return cost


def import_error(module: str) -> str:
    """Return why a peer cannot be loaded, or an empty string."""
    try:
        import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{module} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def measure_limits(path: Path, minutes: float) -> dict[str, float]:
    """Return the seconds of each of `LIMITS`, the best of the rounds, each in a new process."""
    timestamps = [float(second) for second in range(round(minutes * 60))]
    seconds = dict.fromkeys(LIMITS, inf)
    for _ in range(NUM_ROUNDS):
        for name in LIMITS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found = process.submit(decoder_seconds, path, timestamps, name, SIZE_PIXELS)
                seconds[name] = min(seconds[name], found.result())
            print(f"    {name}: {seconds[name]:.2f} s", flush=True)
    return seconds


def compare_readers(title: str, path: Path) -> Iterator[Outcome]:
    """Measure all readers on one video."""
    names = [name for name, (_, module) in READERS.items() if not import_error(module)]
    rounds = [[run_round(name, path, MINUTES) for name in names] for _ in range(NUM_ROUNDS)]
    best = {
        name: min(costs, key=lambda cost: cost.seconds)
        for name, costs in zip(names, zip(*rounds, strict=True), strict=True)
    }
    seconds = {name: cost.seconds for name, cost in best.items()}
    what, limits = f"{MINUTES} minutes of {title}", measure_limits(path, MINUTES)
    for peer in ("decord", "PyAV"):
        why = import_error(READERS[peer][1])
        if peer in best:
            floors = ", ".join(
                f"{name} {limits[name] / seconds[peer]:.2f}" for name in EXACT_LIMITS
            )
            why = f"{EXACT_WHY} Floors over {peer}: {floors}. {busy_cores(best, 'ours', peer)}"
        ours = seconds["ours"] if peer in best else None
        yield Outcome(
            1, what, "s", ours, seconds.get(peer), peer, goal=Goal("at most", 0.5), why=why
        )
    for peer in ("decord's own resize", "torchcodec"):
        ours = seconds["ours"] if peer in best else None
        yield Outcome(
            1, what, "s", ours, seconds.get(peer), peer, why=import_error(READERS[peer][1])
        )
    for name, limit in limits.items():
        yield Outcome(1, what, "s", seconds["ours"], limit=limit, limit_name=name)
    for peer, other in (("decord", "decord"), ("PyAV", "PyAV"), ("our exact pass", "ours")):
        if other in best:
            goal = Goal("at most", 0.1)
            yield Outcome(
                1,
                f"key frames of {what}",
                "s",
                seconds["key frames"],
                seconds[other],
                peer,
                goal=goal,
                why=KEY_FRAMES_WHY,
            )


def busy_cores(best: dict[str, Cost], *names: str) -> str:
    """Describe how many cores some readers kept busy."""
    cores = ", ".join(
        f"{name} {best[name].core_seconds / best[name].seconds:.1f}" for name in names
    )
    return f"Cores kept busy: {cores} of {num_available_cpus()}."


def measure() -> Iterator[Outcome]:
    """Compare exact frames and key frames with the peers; then read a long video."""
    with TemporaryDirectory() as folder:
        for title, settings in VIDEOS.items():
            clip, path = Path(folder) / "clip.mp4", Path(folder) / "video.mp4"
            write_clip(clip, *settings)
            loop_video(clip, path, MINUTES * 60)
            megabits = path.stat().st_size * 8 / MINUTES / 6e7
            print(f"{MINUTES} minutes of {title}, {megabits:.1f} Mbit/s", flush=True)
            yield from compare_readers(title, path)
            if title == LONG_VIDEO:
                loop_video(clip, path, LONG_MINUTES * 60)
                cost = run_round("ours", path, LONG_MINUTES)
                goal = Goal("at most", MAX_MEGABYTES, "nothing")
                yield Outcome(
                    1,
                    f"memory for {LONG_MINUTES} minutes of {title}",
                    "MB",
                    cost.megabytes,
                    goal=goal,
                )
                yield Outcome(1, f"{LONG_MINUTES} minutes of {title}", "s", cost.seconds)
