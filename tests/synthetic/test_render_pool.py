import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.render import render_stories
from lit_hour.synthetic.story_generator import generate_story
from tests import REPOSITORY

LONG_RENDERING = """
import sys
from pathlib import Path
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.render import render_stories
from lit_hour.synthetic.story_generator import generate_story

durations = [20.0, 30000.0, 30000.0, 20.0]  # one of two processes finishes a video, then both are busy for long
videos = [(generate_story(seed, seconds), Path(sys.argv[1]) / f"{seed}.mp4") for seed, seconds in enumerate(durations)]
try:
    render_stories(videos, len(videos), 64, 5, num_workers=2)
except SyntheticDataError as error:
    sys.exit(str(error))
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds processes in /proc, which Linux has"
)


def processes_of(session: int) -> dict[int, str]:
    """The command line of every process of a session that has not ended."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session_of_process = (
                (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            )
            if int(session_of_process) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended since it was listed
            continue
    return found


@pytest.fixture
def rendering(tmp_path: Path):
    """A run of its own that has finished `0.mp4` and is in the midst of both long ones."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RENDERING, str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    unfinished = {tmp_path / f"{seed}.mp4.part" for seed in (1, 2)}
    give_up = time.monotonic() + 60
    while not (set(tmp_path.glob("*.part")) == unfinished and (tmp_path / "0.mp4").exists()):
        assert process.poll() is None and time.monotonic() < give_up, "rendering never got going"
        time.sleep(0.01)
    yield process
    for left in processes_of(process.pid):
        os.kill(left, signal.SIGKILL)
    process.communicate()


def test_a_killed_run_leaves_whole_videos_only_and_no_process(
    rendering: subprocess.Popen, tmp_path: Path
):
    os.kill(rendering.pid, signal.SIGKILL)
    rendering.wait()
    give_up = time.monotonic() + 20
    while processes_of(rendering.pid):
        assert time.monotonic() < give_up, (
            "rendering processes outlive the run that they worked for"
        )
        time.sleep(0.02)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["0.mp4"]


def test_a_killed_process_is_an_error_that_says_so(rendering: subprocess.Popen, tmp_path: Path):
    newest = max(
        process
        for process, command in processes_of(rendering.pid).items()
        if "forkserver" in command
    )
    os.kill(newest, signal.SIGKILL)
    _, errors = rendering.communicate(timeout=30)
    assert rendering.returncode == 1
    assert errors.endswith(
        "a process that renders videos was killed: start again, what is finished is kept\n"
    )
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["0.mp4"]


def test_a_rendering_process_does_not_load_torch():
    code = "import sys, lit_hour.synthetic.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_one_video_that_cannot_be_written_stops_the_rest(tmp_path: Path):
    videos = [(generate_story(0, 10.0), tmp_path / "missing" / "0.mp4")]
    videos += [(generate_story(seed, 900.0), tmp_path / f"{seed}.mp4") for seed in range(1, 9)]
    with pytest.raises(SyntheticDataError, match=r"missing/0\.mp4 cannot be written"):
        render_stories(videos, len(videos), 32, 5, num_workers=1)
    assert len(list(tmp_path.glob("*.mp4"))) < 4
    assert not list(tmp_path.glob("*.part"))


def test_stories_are_taken_when_their_turn_is_near(tmp_path: Path):
    num_taken_before_last: list[int] = []

    def stories():
        for seed in range(12):
            num_taken_before_last.append(len(list(tmp_path.glob("*.mp4"))))
            yield generate_story(seed, 10.0), tmp_path / f"{seed}.mp4"

    render_stories(stories(), 12, 32, 2, num_workers=2)
    assert len(list(tmp_path.glob("*.mp4"))) == 12
    assert all(index - finished <= 4 for index, finished in enumerate(num_taken_before_last))
