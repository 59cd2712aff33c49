"""Rendering in parallel processes: killed runs and workers, errors, order, and memory."""

import os
import signal
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import av
import pytest

from lit_hour.config.schema import VideoConfig
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic import render_pool
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.render_pool import (
    FrameSampling,
    RenderedVideo,
    RenderPool,
    RenderTask,
    render_video,
)
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.synthetic.video_plan import VideoPlan
from tests import REPOSITORY

SETTINGS = SyntheticConfig(image_size=64, fps=5)
SAMPLING = FrameSampling(VideoConfig(image_size=16, min_frames=1), jpeg_quality=90)
RENDER_LONG_VIDEOS = """
import sys
from pathlib import Path
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic import render_pool
from tests.synthetic.test_render_processes import render_all

render_pool.LONG_VIDEO_SECONDS = 1e9  # in the given order
try:  # two processes: one finishes a short video, then both are busy for a long time
    render_all(Path(sys.argv[1]), [20.0, 30000.0, 30000.0])
except SyntheticDataError as error:
    sys.exit(str(error))
"""

ERROR_WHILE_SENDING = """
import sys, time
from pathlib import Path
from lit_hour.synthetic.render_pool import RenderPool
from tests.synthetic.test_render_processes import plan_tasks, send_a_part

with RenderPool(plan_tasks(Path(sys.argv[1]), [20.0]), 1, send_a_part):
    while not Path(sys.argv[1], "sending").exists():
        time.sleep(0.01)
    time.sleep(0.1)  # the thread of the executor reads the part
    sys.exit("the error")
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="lists processes in /proc, which only Linux has"
)


def running_processes(session: int) -> dict[int, str]:
    """Return the command line of every running process of a session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            state, process_session = fields[0], int(fields[3])
            if process_session == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # the process has ended since it was listed
            continue
    return found


def plan_tasks(folder: Path, durations: list[float]) -> list[RenderTask]:
    """Return tasks that write `0.mp4`, `1.mp4` and so on."""
    plans = [VideoPlan(str(seed), seed, seconds) for seed, seconds in enumerate(durations)]
    return [RenderTask(plan, SETTINGS, folder / f"{plan.name}.mp4") for plan in plans]


def render_all(
    folder: Path,
    durations: list[float],
    num_workers: int = 2,
    sampling: FrameSampling | None = None,
) -> list[RenderedVideo]:
    with RenderPool(plan_tasks(folder, durations), num_workers, render_video, sampling) as pool:
        return list(pool.rendered())


def send_a_part(task: RenderTask, _: FrameSampling | None) -> RenderedVideo:
    """Let this process send only the first bytes of its result, as when a pipe is full."""

    def send_bytes(connection: Connection, _: bytes) -> None:
        os.write(connection.fileno(), struct.pack("!i", 1_000_000) + b"first bytes")
        (task.path.parent / "sending").touch()
        time.sleep(600)

    Connection.send_bytes = send_bytes
    return RenderedVideo(task.path, None)


@pytest.fixture
def rendering(tmp_path: Path):
    """A separate run that has finished `0.mp4` and is in the middle of both long videos."""
    process = subprocess.Popen(
        [sys.executable, "-c", RENDER_LONG_VIDEOS, str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60

    def unfinished() -> set[str]:
        return {path.name.split(".")[0] for path in tmp_path.glob("*.unfinished")}

    while not (unfinished() == {"1", "2"} and (tmp_path / "0.mp4").exists()):
        assert process.poll() is None and time.monotonic() < deadline, "rendering did not start"
        time.sleep(0.01)
    yield process
    for left in running_processes(process.pid):
        os.kill(left, signal.SIGKILL)
    process.communicate()


@needs_proc
def test_sigkill_leaves_only_finished_videos_and_no_processes(
    rendering: subprocess.Popen, tmp_path: Path
):
    os.kill(rendering.pid, signal.SIGKILL)
    rendering.wait()
    deadline = time.monotonic() + 20
    while running_processes(rendering.pid):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.02)
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["0.mp4"]
    render_story(generate_story(0, 10.0), tmp_path / "1.mp4", 32, 5)  # beside the unfinished file
    with av.open(str(tmp_path / "1.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 50


@needs_proc
@pytest.mark.slow
def test_killed_worker_is_reported(rendering: subprocess.Popen, tmp_path: Path):
    commands = running_processes(rendering.pid).items()
    worker = max(process for process, command in commands if "spawn_main" in command)
    os.kill(worker, signal.SIGKILL)
    _, errors = rendering.communicate(timeout=30)
    assert rendering.returncode == 1
    assert errors.endswith(
        "A rendering process was killed. Run the same command again: finished videos are kept.\n"
    )
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["0.mp4"]


def test_nothing_that_renders_imports_torch():
    code = "import sys, lit_hour.synthetic.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_video_that_cannot_be_written_stops_the_others(tmp_path: Path):
    tasks = plan_tasks(tmp_path / "missing", [10.0]) + plan_tasks(tmp_path, [500.0] * 9)[1:]
    with (
        pytest.raises(SyntheticDataError, match=r"Cannot write .*missing/0\.mp4"),
        RenderPool(tasks, 1, render_video) as pool,
    ):
        list(pool.rendered())
    assert len(list(tmp_path.glob("*.mp4"))) < 8
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("error", (KeyboardInterrupt, SyntheticDataError))
def test_error_beside_it_ends_rendering_in_the_middle_of_a_video(
    tmp_path: Path, error: type[BaseException]
):
    tasks = plan_tasks(tmp_path, [20.0, 30000.0, 30000.0])
    with pytest.raises(error), RenderPool(tasks, 2, render_video) as pool:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.unfinished"))) < 2:
            assert time.monotonic() < deadline, "rendering did not start"
            time.sleep(0.01)
        processes = list(pool._executor._processes.values())
        raise error
    assert not any(process.is_alive() for process in processes)
    assert not list(tmp_path.glob("*.unfinished")) and not (tmp_path / "1.mp4").exists()


def test_error_while_a_process_sends_its_frames_ends_the_run(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", ERROR_WHILE_SENDING, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, "the error\n")


def test_frames_in_memory_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No more videos are rendered than `MAX_AHEAD_SECONDS` allow until their frames are taken."""
    monkeypatch.setattr(render_pool, "MAX_AHEAD_SECONDS", 40.0)
    with RenderPool(plan_tasks(tmp_path, [20.0] * 7), 2, render_video, SAMPLING) as pool:
        for num_taken, video in enumerate(pool.rendered()):
            assert len(video.frames.images) == 20
            assert len(list(tmp_path.glob("*.mp4"))) <= num_taken + 2
    assert len(list(tmp_path.glob("*.mp4"))) == 7


def test_long_videos_are_rendered_first(tmp_path: Path):
    videos = render_all(tmp_path, [20.0, 20.0, 700.0, 20.0], num_workers=1)
    assert [video.path.name for video in videos] == ["2.mp4", "0.mp4", "1.mp4", "3.mp4"]
