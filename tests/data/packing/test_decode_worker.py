"""Files that are read by a process that hangs, crashes or is killed: it is stopped here, as a dead
disk would stop it."""

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
from tests.data.tiny import NAMES, VIDEO, write_video


class StopError(Exception):
    """Reading was told to stop."""


@pytest.fixture
def reader() -> Iterator[DecodeWorker]:
    with DecodeWorker(1, lambda: None) as reader:
        yield reader


def process_of(reader: DecodeWorker) -> int:
    assert reader._running is not None
    return reader._running[0].pid or 0


def video(folder: Path, name: str) -> DecodeRequest:
    return DecodeRequest(folder, SampleSpec("video", (name,), 0, ()), VIDEO, 90)


def read(reader: DecodeWorker, files: DecodeRequest) -> tuple[int, SampleSummary]:
    *pictures, ending = reader.read(files)
    assert all(
        isinstance(each, EncodedImage) and each.suffix == "jpg" for each in pictures
    ) and isinstance(ending, SampleSummary)
    return len(pictures), ending


def test_one_process_reads_one_subject_after_the_other(
    reader: DecodeWorker, tiny_videos: Path, tmp_path: Path
) -> None:
    assert read(reader, video(tiny_videos, "a.mp4")) == (
        4,
        SampleSummary(3.0, (0.0, 0.75, 1.5, 2.25)),
    )
    first = process_of(reader)
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"bad\.mp4 cannot be opened as a video"):
        read(reader, video(tmp_path, "bad.mp4"))
    assert read(reader, video(tiny_videos, "b.mp4"))[0] == 4
    assert process_of(reader) == first and len(multiprocessing.active_children()) >= 1
    assert list(reader.read(DecodeRequest(tmp_path, SampleSpec("text", (), 0, ()), VIDEO, 90))) == [
        SampleSummary(0.0, ())
    ]


def test_what_takes_too_long_is_given_up_and_the_next_is_read(
    reader: DecodeWorker, tiny_videos: Path
) -> None:
    read(reader, video(tiny_videos, "a.mp4"))
    stopped = process_of(reader)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(
        VideoError,
        match=rf"^{tiny_videos}/b\.mp4 takes longer than pack\.timeout_seconds=1\.$",
    ):
        read(reader, video(tiny_videos, "b.mp4"))
    assert not Path(f"/proc/{stopped}").exists()
    assert read(reader, video(tiny_videos, "b.mp4"))[0] == 4


@pytest.mark.parametrize(
    ("number", "kind", "error", "message"),
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
def test_a_process_that_dies_is_explained(
    reader: DecodeWorker, tiny_videos: Path, number: int, kind: str, error: type, message: str
) -> None:
    read(reader, video(tiny_videos, "a.mp4"))
    process = process_of(reader)
    os.kill(process, signal.SIGSTOP)
    for each in (number, signal.SIGCONT):
        threading.Timer(0.3, os.kill, (process, each)).start()
    with pytest.raises(error, match=message):
        list(
            reader.read(DecodeRequest(tiny_videos, SampleSpec(kind, ("b.mp4",), 0, ()), VIDEO, 90))
        )
    assert read(reader, video(tiny_videos, "c.1.mp4"))[0] == 5


def test_who_waits_for_a_subject_can_be_told_to_stop(tiny_videos: Path) -> None:
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise StopError

    with DecodeWorker(0, check_stop) as reader:
        read(reader, video(tiny_videos, "a.mp4"))
        process = process_of(reader)
        os.kill(process, signal.SIGSTOP)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(StopError):
            read(reader, video(tiny_videos, "b.mp4"))
    assert not Path(f"/proc/{process}").exists()


def has_open(process: int, file: Path) -> bool:
    for place in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed at this moment
            if os.readlink(place) == str(file):
                return True
    return False


def stop_who_opens(file: Path) -> None:
    """Stop the process that has a file open."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for child in multiprocessing.active_children():
            if has_open(child.pid or 0, file):
                os.kill(child.pid or 0, signal.SIGSTOP)
                return


@pytest.mark.parametrize("num_workers", [1, 2])
def test_packing_leaves_out_a_video_that_hangs_and_keeps_the_rest_of_its_shard(
    tmp_path: Path, num_workers: int
) -> None:
    for number, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / name, num_seconds=200 if number == 1 else 4)
    questions = tmp_path / "q.json"
    questions.write_text(
        json.dumps([{"video": name, "question": "What?", "answer": "It."} for name in NAMES])
    )
    settings = PackConfig(
        videos_per_shard=3, num_workers=num_workers, max_bad_samples=1, timeout_seconds=3
    )
    stopper = threading.Thread(target=stop_who_opens, args=(tmp_path / "videos" / NAMES[1],))
    stopper.start()
    summary = pack(tmp_path / "videos", questions, tmp_path / "out", VIDEO, settings)
    stopper.join()
    reason = f"{tmp_path}/videos/b.mp4 takes longer than pack.timeout_seconds=3."
    assert [(each.name, each.reason) for each in summary.skipped] == [("b.mp4", reason)]
    shards = open_shards(tmp_path / "out")
    assert [subject.key for subject in shards.entries] == ["a", "c_1", "more/d_e", "more/f"]
    assert all(len(shards.read(subject).images) == 4 for subject in shards.entries)
    assert not list((tmp_path / "out").glob("*.unfinished"))
