"""A folder divided among processes that know nothing of each other: each annotates its share, and a last one gathers."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from lit_hour.cli import main
from lit_hour.errors import ConfigError
from lit_hour.videomarathon.aggregate import Share
from lit_hour.videomarathon.annotate import annotate, annotate_share
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import SETTINGS, SyntheticVideos

FORK = multiprocessing.get_context("fork")
NUM_VIDEOS, NUM_SHARES = 7, 3
NAMES = [f"film {number}.mp4" for number in range(NUM_VIDEOS)]


@pytest.fixture
def many(films: SyntheticVideos, tmp_path: Path) -> SyntheticVideos:
    """More videos, which all show the same."""
    folder, story = tmp_path / "many", films.narrator.stories["garden.mp4"]
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(films.folder / "garden.mp4")
    return SyntheticVideos(folder, type(films.narrator)(dict.fromkeys(NAMES, story)))


def start(share: Share, videos: Path, out: Path, url: str) -> BaseProcess:
    process = FORK.Process(
        target=annotate_share, args=(share, videos, out, [url], "narrator", SETTINGS), daemon=True
    )
    process.start()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("num_names, num_shares", [(28_000, 64), (7, 3), (2, 5), (1, 1)])
def test_shares_are_all_and_equal_and_do_not_overlap(num_names: int, num_shares: int) -> None:
    names = [f"{number:05d}" for number in range(num_names)]
    parts = [Share(number, num_shares).select(names) for number in range(1, num_shares + 1)]
    assert sorted(name for part in parts for name in part) == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text", ["0/16", "17/16", "3", "3/", "/3", "1/0", "-1/3", "a/b", "1/2/3", "", " 1/2", "²/3"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="1/16 is the first of sixteen"):
        Share.parse(text)


def test_shares_side_by_side_one_of_them_killed_and_run_again(
    many: SyntheticVideos, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    shares = [Share(number, NUM_SHARES) for number in range(1, NUM_SHARES + 1)]
    with ChatServer(many.narrator.answer, delay_seconds=0.01) as server:
        processes = [start(share, many.folder, out, server.url) for share in shares]
        wait_until(lambda: sum(f"Video: {NAMES[1]}" in each.body for each in server.answered) > 5)
        os.kill(processes[1].pid or 0, signal.SIGKILL)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
        annotated = {path.parent.name for path in out.rglob("annotation.json")}
        assert (
            annotated == set(shares[0].select(NAMES) + shares[2].select(NAMES))
            and not (out / "questions.json").exists()
        )

        known = {
            line.split('"')[3]
            for path in out.rglob("journal.jsonl")
            for line in path.read_text().splitlines()
        }
        num_before = len(server.answered)
        again = start(shares[1], many.folder, out, server.url)
        again.join(60)
        assert again.exitcode == 0
        asked = {
            each.key for each in server.answered[num_before:] if each.form != "guess"
        }  # these films have the same guesses
        assert asked and not known & asked

        num_before = len(server.answered)
        totals = annotate(many.folder, out, ["http://127.0.0.1:1/v1"], "narrator", SETTINGS)
        assert (totals.num_videos, totals.unfinished) == (NUM_VIDEOS, []) and len(
            server.answered
        ) == num_before
    with ChatServer(many.narrator.answer) as server:
        annotate(many.folder, whole, [server.url], "narrator", SETTINGS)
    assert (out / "questions.json").read_bytes() == (whole / "questions.json").read_bytes()


def test_a_share_by_the_command_and_what_it_says(
    many: SyntheticVideos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (many.folder / NAMES[4]).unlink()
    (many.folder / NAMES[4]).write_bytes(b"this is no video")
    small = [
        "videomarathon.image_size=32",
        "videomarathon.filters.blind_trials=0",
        "videomarathon.max_failed_videos=1",
    ]
    with ChatServer(many.narrator.answer) as server:
        words = [
            "annotate",
            str(many.folder),
            str(tmp_path / "out"),
            "--teacher",
            server.url,
            "--model",
            "narrator",
        ]
        main([*words, "--share", "2/3", *small])
        first, failed, last = capsys.readouterr().out.splitlines()
        assert first == "share 2/3: 1 of 2 videos are annotated"
        assert (
            failed.startswith(f"failed {NAMES[4]}: ") and "the same words without --share" in last
        )
        assert not (tmp_path / "out/questions.json").exists()
        with pytest.raises(ConfigError, match="--share 4/3 is no share"):
            main([*words, "--share", "4/3"])
