"""`lit-hour watch`: questions about a live video while it is read."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.errors import InputError, QuestionError, VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory_io import load_memory
from lit_hour.inference.watch import Watch
from lit_hour.media.live_stream import LiveStream
from lit_hour.run_dir import RunDir
from tests.inference.helpers import (
    assert_equal_memories,
    generate_text,
    make_predictor,
)
from tests.media.helpers import loop_video, write_moving
from tests.media.live_sources import growing_file, named_pipe

NUM_SECONDS = 12
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def ts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera's stream with a keyframe in each second."""
    file = tmp_path_factory.mktemp("live") / "camera.ts"
    return write_moving(file, 25 * NUM_SECONDS, g="25")


def make_watch(predictor: VideoPredictor, source: Path, **options) -> Watch:
    stream = LiveStream(str(source), predictor.config.video, options.pop("stall_seconds", 20.0))
    return Watch(predictor, stream, options.pop("max_frames", 100), **options)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.split("\n")


def test_equals_ask_about_the_finished_file(
    predictor: VideoPredictor, ts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with named_pipe(tmp_path / "pipe", ts.read_bytes()) as pipe:
        watch = make_watch(predictor, pipe, question="What?")
        watch.run()
    expected = predictor.encode_video(ts)
    assert_equal_memories(watch.memory, replace(expected, source=str(pipe)))
    end, question, *answer, cost, _ = lines_of(capsys)
    assert end == ("[the source ended at 00:12: it was closed. 12 frames read, 12 in memory]")
    assert question == "[00:12] What?"
    assert "\n".join(answer) == generate_text(predictor, expected, "What?")
    assert cost.startswith("[12 frames; ")


def test_questions_are_answered_about_what_was_read(
    predictor: VideoPredictor, ts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = ts.read_bytes()
    pipe, answered = tmp_path / "pipe", threading.Event()
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            answered.wait(20)
            file.write(content[len(content) // 2 :])

    watch = make_watch(predictor, pipe)

    def read_lines() -> Iterator[str]:
        yield "What before the first frame?"
        while watch.live.memory is None:
            time.sleep(0.01)
        yield "  "
        yield "What in the middle?"
        while watch._questions or watch._events.qsize():
            time.sleep(0.01)
        answered.set()
        while "video" in watch._open:
            time.sleep(0.01)
        yield "What at the end?"
        raise EOFError

    writer = threading.Thread(target=write)
    writer.start()
    watch.run(read_lines().__next__)
    writer.join()
    lines = lines_of(capsys)
    first, middle, end, last = (
        next(number for number, line in enumerate(lines) if text in line)
        for text in ("before the first", "in the middle", "the source ended", "at the end?")
    )
    assert first < middle < end < last
    assert lines[first].startswith("[00:0") and lines[last].startswith("[00:12]")
    seconds = int(lines[middle][4:6])
    assert seconds <= 6  # half of the video was sent
    assert watch.memory.num_frames == NUM_SECONDS
    answer = generate_text(predictor, predictor.encode_video(ts), "What at the end?")
    assert "\n".join(lines[last + 1 :]).startswith(answer)


def test_a_question_is_repeated_every_few_seconds_of_video(
    predictor: VideoPredictor, ts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = make_watch(
        predictor, ts, stall_seconds=0.0, max_frames=8, question="What?", every_seconds=4.0
    )
    watch.run()
    lines = lines_of(capsys)
    asked = [line for line in lines if line.endswith("What?")]
    assert asked[0] == "[00:04] What?" and asked[-1] == "[00:12] What?"
    assert 2 <= len(asked) <= 4 and asked == sorted(asked)  # fewer where answers take longer
    assert "12 frames read, 8 in memory" in "\n".join(lines)
    times = [int(seconds) for seconds in watch.memory.timestamps_seconds]
    assert times == [0, 4, 6, 7, 8, 9, 10, 11]


def test_a_source_without_video_is_an_error(predictor: VideoPredictor, tmp_path: Path) -> None:
    (tmp_path / "noise.ts").write_bytes(os.urandom(100_000))
    watch = make_watch(predictor, tmp_path / "noise.ts", stall_seconds=0.0, question="What?")
    with pytest.raises(VideoError, match=r"noise\.ts cannot be read as a live video"):
        watch.run()
    with pytest.raises(QuestionError, match=r"Nothing of .*noise\.ts was read yet"):
        _ = watch.memory


def test_a_source_without_video_ends_a_conversation_at_once(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    (tmp_path / "noise.ts").write_bytes(bytes(100_000))
    watch, released = make_watch(predictor, tmp_path / "noise.ts", stall_seconds=0.0), []

    def read_line() -> str:  # a terminal at which nothing is typed
        while not released:
            time.sleep(0.01)
        raise EOFError

    with pytest.raises(VideoError, match="cannot be read as a live video"):
        watch.run(read_line)
    released.append(True)


def test_an_error_of_the_decoder_ends_the_source_and_keeps_what_was_read(
    predictor: VideoPredictor,
    ts: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = make_watch(predictor, ts, stall_seconds=0.0, question="What?")
    frames = watch._stream.frames

    def fail() -> Iterator[tuple]:
        for number, frame in enumerate(frames()):
            if number == 7:
                raise VideoError("Frame 7 has a pixel format of its own.")
            yield frame

    monkeypatch.setattr(watch._stream, "frames", fail)
    watch.run()
    end, question, *_ = lines_of(capsys)
    assert "Frame 7 has a pixel format of its own. 7 frames read, 7 in memory" in end
    assert question.endswith("What?") and watch.memory.num_frames == 7


def test_ctrl_c_keeps_all_frames_that_were_decoded(
    predictor: VideoPredictor, ts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with named_pipe(tmp_path / "pipe", ts.read_bytes(), open_seconds=0.6) as pipe:
        watch = make_watch(predictor, pipe)
        handle, seen = watch._handle, []

        def interrupt(event: object) -> None:
            seen.append(event)
            if len(seen) == 5:
                raise KeyboardInterrupt
            handle(event)

        watch._handle = interrupt
        watch.run()
    assert "12 frames" in lines_of(capsys)[0] or watch.live.num_read >= 4
    assert watch.memory.num_frames == watch.live.num_read


def test_arguments_are_checked(ts: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--every", "3"], "--every asks a question again"),
        (["What?", "--every", "-1"], "--every -1.0 is not a time"),
        (["What?", "--stall-seconds", "nan"], "--stall-seconds nan is not a time"),
        (["  "], "The question is empty"),
        (["What?", "--save", "film.mp4"], "film.mp4 is not the name of a memory"),
        (["What?"], "runs/none"),
        (["What?", "--device", "cpu"], "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            source = tmp_path / "none.ts" if "--device" in options else ts
            main(["watch", str(source), *options, "--run", str(tmp_path / "runs/none")])


@pytest.mark.exhaustive
def test_sigint_saves_what_was_read(random_run: RunDir, ts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_hour", "watch", str(tmp_path / "camera.ts"), "What?"]
    options = ["--run", str(random_run.path), "--save", str(tmp_path / "film.safetensors")]
    with growing_file(tmp_path / "camera.ts", ts.read_bytes(), 2):
        process = subprocess.Popen(
            [*command, *options, "--every", "5", "video.max_frames=100"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[00:1"):
                break
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.wait(30) == 0, output
    assert "it was stopped" in output
    overrides = ["video.max_frames=100"]
    predictor = VideoPredictor.from_run(random_run.path, device="cpu", overrides=overrides)
    memory = load_memory(predictor, tmp_path / "film.safetensors")
    assert memory.num_frames >= 10


@pytest.mark.slow
def test_an_hour_of_a_live_source_keeps_flat_memory(
    predictor: VideoPredictor, ts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop_video(ts, hour := tmp_path / "hour.ts", 3600)
    watch = make_watch(
        predictor, hour, stall_seconds=0.0, max_frames=64, question="What?", every_seconds=300.0
    )
    resident, encode = [], watch._encode_pending

    def measure() -> None:
        encode()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES)

    watch._encode_pending = measure
    watch.run()
    assert watch.live.num_read == 3600 and watch.memory.num_frames <= 64
    quarter = len(resident) // 4
    assert max(resident[quarter:]) - max(resident[:quarter]) < 20e6
    assert capsys.readouterr().out.count("What?") >= 4
