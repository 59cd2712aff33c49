"""Rendering in parallel processes: killed runs and workers, errors, and memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.render import render_stories, render_story
from lit_hour.synthetic.story_generator import generate_story
from tests import REPOSITORY

RENDER_LONG_VIDEOS = """
import sys
from pathlib import Path
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.render import render_stories
from lit_hour.synthetic.story_generator import generate_story

# two processes: one finishes a short video, then both are busy for a long time
durations = [20.0, 30000.0, 30000.0, 20.0]
folder = Path(sys.argv[1])
videos = [
    (generate_story(seed, seconds), folder / f"{seed}.mp4")
    for seed, seconds in enumerate(durations)
]
try:
    render_stories(videos, len(videos), 64, 5, num_workers=2)
except SyntheticDataError as error:
    sys.exit(str(error))
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
    worker = max(process for process, command in commands if "forkserver" in command)
    os.kill(worker, signal.SIGKILL)
    _, errors = rendering.communicate(timeout=30)
    assert rendering.returncode == 1
    assert errors.endswith(
        "A rendering process was killed. Run the same command again: finished videos are kept.\n"
    )
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["0.mp4"]


def test_render_module_does_not_import_torch():
    code = "import sys, lit_hour.synthetic.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_video_that_cannot_be_written_stops_the_others(tmp_path: Path):
    videos = [(generate_story(0, 10.0), tmp_path / "missing" / "0.mp4")]
    videos += [(generate_story(seed, 900.0), tmp_path / f"{seed}.mp4") for seed in range(1, 9)]
    with pytest.raises(SyntheticDataError, match=r"Cannot write .*missing/0\.mp4"):
        render_stories(videos, len(videos), 32, 5, num_workers=1)
    assert len(list(tmp_path.glob("*.mp4"))) < 4
    assert not list(tmp_path.glob("*.unfinished"))


def test_stories_are_generated_lazily(tmp_path: Path):
    num_finished_before: list[int] = []

    def stories():
        for seed in range(12):
            num_finished_before.append(len(list(tmp_path.glob("*.mp4"))))
            yield generate_story(seed, 10.0), tmp_path / f"{seed}.mp4"

    render_stories(stories(), 12, 32, 2, num_workers=2)
    assert len(list(tmp_path.glob("*.mp4"))) == 12
    for num_generated, num_finished in enumerate(num_finished_before):
        assert num_generated - num_finished <= 4
