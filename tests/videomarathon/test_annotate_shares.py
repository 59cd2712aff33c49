"""A folder divided into shares, one per process; a last process aggregates them."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.errors import ConfigError
from lit_hour.videomarathon.annotate import Share, annotate, annotate_share
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import CONFIG, NOWHERE, SyntheticVideos

FORK = multiprocessing.get_context("fork")
NUM_VIDEOS, NUM_SHARES = 7, 3
NAMES = [f"film {number}.mp4" for number in range(NUM_VIDEOS)]


@pytest.fixture
def many_videos(videos: SyntheticVideos, tmp_path: Path) -> SyntheticVideos:
    """Seven videos with the same content."""
    folder, story = tmp_path / "many", videos.teacher.stories["garden.mp4"]
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(videos.folder / "garden.mp4")
    return SyntheticVideos(folder, type(videos.teacher)(dict.fromkeys(NAMES, story)))


def start(share: Share, videos: Path, out: Path, url: str) -> BaseProcess:
    arguments = (share, videos, out, [url], "teacher", CONFIG)
    process = FORK.Process(target=annotate_share, args=arguments, daemon=True)
    process.start()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_shares_are_disjoint_complete_and_balanced() -> None:
    for num_names, num_shares in [(28_000, 64), (7, 3), (2, 5), (1, 1)]:
        names = [f"{number:05d}" for number in range(num_names)]
        parts = [Share(number, num_shares).select(names) for number in range(1, num_shares + 1)]
        case = f"{num_names} names in {num_shares} shares"
        assert sorted(name for part in parts for name in part) == names, case
        assert max(map(len, parts)) - min(map(len, parts)) <= 1, case


@pytest.mark.parametrize(
    "text", ["0/16", "17/16", "3", "3/", "/3", "1/0", "-1/3", "a/b", "1/2/3", "", " 1/2", "²/3"]
)
def test_invalid_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Give 1/16 for the first of sixteen"):
        Share.parse(text)


@pytest.mark.slow
def test_shares_in_parallel_with_one_killed_and_restarted(
    many_videos: SyntheticVideos, tmp_path: Path
) -> None:
    folder, out, expected = many_videos.folder, tmp_path / "out", tmp_path / "expected"
    shares = [Share(number, NUM_SHARES) for number in range(1, NUM_SHARES + 1)]
    with ChatServer(many_videos.teacher.answer, delay_seconds=0.01) as server:
        processes = [start(share, folder, out, server.url) for share in shares]
        heading = f"Video: {NAMES[1]}"
        wait_until(lambda: sum(heading in request.body for request in server.answered) > 5)
        os.kill(processes[1].pid or 0, signal.SIGKILL)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
        annotated = {path.parent.name for path in out.rglob("annotation.json")}
        assert annotated == set(shares[0].select(NAMES) + shares[2].select(NAMES))
        assert not (out / "questions.json").exists()

        known = {
            json.loads(line)["key"]
            for path in out.rglob("responses.jsonl")
            for line in path.read_text().splitlines()
        }
        num_before = len(server.answered)
        restarted = start(shares[1], folder, out, server.url)
        restarted.join(60)
        assert restarted.exitcode == 0
        # Guesses do not depend on the video, so all videos have the same ones.
        requested = {
            request.key for request in server.answered[num_before:] if request.kind != "guess"
        }
        assert requested and not known & requested

        num_before = len(server.answered)
        totals = annotate(folder, out, [NOWHERE], "teacher", CONFIG)
        assert (totals.num_videos, totals.unfinished) == (NUM_VIDEOS, [])
        assert len(server.answered) == num_before
    with ChatServer(many_videos.teacher.answer) as server:
        annotate(folder, expected, [server.url], "teacher", CONFIG)
    assert (out / "questions.json").read_bytes() == (expected / "questions.json").read_bytes()


def test_share_option_of_the_command_line(
    many_videos: SyntheticVideos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (many_videos.folder / NAMES[4]).unlink()
    (many_videos.folder / NAMES[4]).write_bytes(b"this is not a video")
    overrides = [
        "videomarathon.image_size=32",
        "videomarathon.filters.blind_trials=0",
        "videomarathon.max_failed_videos=1",
    ]
    out = tmp_path / "out"
    with ChatServer(many_videos.teacher.answer) as server:
        argv = ["annotate", str(many_videos.folder), str(out)]
        argv += ["--teacher", server.url, "--model", "teacher"]
        main([*argv, "--share", "2/3", *overrides])
        first, failed, last = capsys.readouterr().out.splitlines()
        assert first == "share 2/3: 1 of 2 videos are annotated"
        assert failed.startswith(f"failed {NAMES[4]}: ")
        assert "the same command without --share" in last
        assert not (out / "questions.json").exists()
        with pytest.raises(ConfigError, match="--share 4/3 is invalid"):
            main([*argv, "--share", "4/3"])
