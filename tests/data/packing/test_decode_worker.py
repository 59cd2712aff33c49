"""Decode workers that hang, crash or are killed; SIGSTOP stands for a failing disk."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lit_hour.config.schema import PackConfig
from lit_hour.data.packing.decode_worker import (
    DecodeRequest,
    DecodeWorker,
    EncodedImage,
    SampleSummary,
)
from lit_hour.data.packing.pack import pack
from lit_hour.data.questions.record import SampleSpec
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ImageError, ShardError, VideoError
from tests.data.factories import VIDEO, VIDEO_NAMES, write_video


class StopError(Exception):
    """Raised by `check_stop`."""


@pytest.fixture
def worker() -> Iterator[DecodeWorker]:
    with DecodeWorker(1, lambda: None) as worker:
        yield worker


def process_of(worker: DecodeWorker) -> int:
    assert worker._running is not None
    return worker._running[0].pid or 0


def video(folder: Path, name: str) -> DecodeRequest:
    return DecodeRequest(folder, SampleSpec("video", (name,), 0, ()), VIDEO, 90)


def read(worker: DecodeWorker, request: DecodeRequest) -> tuple[int, SampleSummary]:
    *images, summary = worker.read(request)
    assert all(
        isinstance(image, EncodedImage) and image.suffix == "jpg" for image in images
    ) and isinstance(summary, SampleSummary)
    return len(images), summary


def test_worker_decodes_several_samples(
    worker: DecodeWorker, tiny_videos: Path, tmp_path: Path
) -> None:
    assert read(worker, video(tiny_videos, "a.mp4")) == (
        4,
        SampleSummary(3.0, (0.0, 0.75, 1.5, 2.25)),
    )
    first = process_of(worker)
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"bad\.mp4 cannot be opened as a video"):
        read(worker, video(tmp_path, "bad.mp4"))
    assert read(worker, video(tiny_videos, "b.mp4"))[0] == 4
    assert process_of(worker) == first and len(multiprocessing.active_children()) >= 1
    assert list(worker.read(DecodeRequest(tmp_path, SampleSpec("text", (), 0, ()), VIDEO, 90))) == [
        SampleSummary(0.0, ())
    ]


def test_timeout_fails_one_sample_and_the_next_is_decoded(
    worker: DecodeWorker, tiny_videos: Path
) -> None:
    read(worker, video(tiny_videos, "a.mp4"))
    stopped = process_of(worker)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(
        VideoError,
        match=rf"^{tiny_videos}/b\.mp4 takes longer than pack\.timeout_seconds=1\.$",
    ):
        read(worker, video(tiny_videos, "b.mp4"))
    assert not Path(f"/proc/{stopped}").exists()
    assert read(worker, video(tiny_videos, "b.mp4"))[0] == 4


@pytest.mark.parametrize(
    ("signal_number", "modality", "error", "message"),
    [
        (
            signal.SIGSEGV,
            "video",
            VideoError,
            r"b\.mp4 crashes its decoder \(SIGSEGV\)\.",
        ),
        (
            signal.SIGSEGV,
            "image",
            ImageError,
            r"b\.mp4 crashes its decoder \(SIGSEGV\)\.",
        ),
        (
            signal.SIGKILL,
            "video",
            ShardError,
            r"A packing process was killed.*fewer pack\.num_workers",
        ),
    ],
)
def test_exit_status_of_the_worker_is_explained(
    worker: DecodeWorker,
    tiny_videos: Path,
    signal_number: int,
    modality: str,
    error: type,
    message: str,
) -> None:
    read(worker, video(tiny_videos, "a.mp4"))
    process = process_of(worker)
    os.kill(process, signal.SIGSTOP)
    for sent in (signal_number, signal.SIGCONT):
        threading.Timer(0.3, os.kill, (process, sent)).start()
    with pytest.raises(error, match=message):
        list(
            worker.read(
                DecodeRequest(tiny_videos, SampleSpec(modality, ("b.mp4",), 0, ()), VIDEO, 90)
            )
        )
    assert read(worker, video(tiny_videos, "c.1.mp4"))[0] == 5


def test_check_stop_aborts_decoding(tiny_videos: Path) -> None:
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise StopError

    with DecodeWorker(0, check_stop) as worker:
        read(worker, video(tiny_videos, "a.mp4"))
        process = process_of(worker)
        os.kill(process, signal.SIGSTOP)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(StopError):
            read(worker, video(tiny_videos, "b.mp4"))
    assert not Path(f"/proc/{process}").exists()


def has_open(process: int, file: Path) -> bool:
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(descriptor) == str(file):
                return True
    return False


def stop_process_with_open_file(file: Path) -> None:
    """Stop the process that has a file open."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for child in multiprocessing.active_children():
            if has_open(child.pid or 0, file):
                os.kill(child.pid or 0, signal.SIGSTOP)
                return


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_pack_skips_a_hanging_video_within_the_budget(tmp_path: Path, num_workers: int) -> None:
    for signal_number, name in enumerate(VIDEO_NAMES):
        write_video(tmp_path / "videos" / name, num_seconds=200 if signal_number == 1 else 4)
    questions = tmp_path / "q.json"
    questions.write_text(
        json.dumps([{"video": name, "question": "What?", "answer": "It."} for name in VIDEO_NAMES])
    )
    settings = PackConfig(
        videos_per_shard=3, num_workers=num_workers, max_bad_samples=1, timeout_seconds=3
    )
    stopper = threading.Thread(
        target=stop_process_with_open_file, args=(tmp_path / "videos" / VIDEO_NAMES[1],)
    )
    stopper.start()
    summary = pack(tmp_path / "videos", questions, tmp_path / "out", VIDEO, settings)
    stopper.join()
    reason = f"{tmp_path}/videos/b.mp4 takes longer than pack.timeout_seconds=3."
    assert [(sample.name, sample.reason) for sample in summary.skipped] == [("b.mp4", reason)]
    shards = open_shards(tmp_path / "out")
    assert [entry.key for entry in shards.entries] == ["a", "c_1", "more/d_e", "more/f"]
    assert all(len(shards.read(entry).images) == 4 for entry in shards.entries)
    assert not list((tmp_path / "out").glob("*.unfinished"))
