"""kill -9 at random moments: no answer is asked for twice, none is lost, and the questions are those of a quiet run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from lit_hour.videomarathon.annotate import annotate
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import SETTINGS, FinishedRun, SyntheticVideos

NUM_KILLS = 10
FORK = multiprocessing.get_context(
    "fork"
)  # a process of its own that can be killed, without loading everything again


def annotate_until_killed(videos: Path, out: Path, url: str) -> None:
    """A process that annotates; it dies with the test."""
    annotate(videos, out, [url], "narrator", SETTINGS)


def start(films: SyntheticVideos, out: Path, url: str) -> BaseProcess:
    process = FORK.Process(target=annotate_until_killed, args=(films.folder, out, url), daemon=True)
    process.start()
    return process


def journalled(out: Path) -> set[str]:
    """The key of every answer that is on the disk, in a whole line."""
    lines = [
        line
        for path in out.rglob("journal.jsonl")
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    return {json.loads(line)["key"] for line in lines if line.endswith(b"\n")}


def test_killing_at_random_moments_loses_and_repeats_nothing(
    films: SyntheticVideos, finished: FinishedRun, tmp_path: Path
) -> None:
    random, num_killed = Random(1), 0
    total = finished.totals.num_answers
    moments = sorted(random.sample(range(total - 20), NUM_KILLS))
    with ChatServer(films.narrator.answer, delay_seconds=0.01) as server:
        for moment in moments:
            known, num_before = journalled(tmp_path), len(server.answered)
            process = start(films, tmp_path, server.url)
            while len(server.answered) < moment and process.is_alive():
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.02))
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            num_killed += process.exitcode == -signal.SIGKILL
            time.sleep(0.1)  # until the server has seen the end of what was in flight
            answered = set(server.keys[num_before:])
            assert not known & answered, "what is on the disk was asked for again"
            lost = answered - journalled(tmp_path)
            assert len(lost) <= SETTINGS.client.max_concurrent_requests, (
                "more is lost than was on its way"
            )
        known, num_before = journalled(tmp_path), len(server.answered)
        process = start(films, tmp_path, server.url)
        process.join(60)
        assert process.exitcode == 0
        assert not known & set(server.keys[num_before:])
    assert num_killed == NUM_KILLS
    assert len(known) < total, "the last kill came after the last request"
    assert (tmp_path / "questions.json").read_bytes() == (
        finished.out / "questions.json"
    ).read_bytes()
    assert journalled(tmp_path) == journalled(finished.out) == set(finished.server.keys)


def test_two_processes_share_a_folder(
    films: SyntheticVideos, finished: FinishedRun, tmp_path: Path
) -> None:
    with ChatServer(films.narrator.answer) as server:
        processes = [start(films, tmp_path, server.url) for _ in range(2)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert len(server.keys) == len(set(server.keys)) == finished.totals.num_answers
    assert (tmp_path / "questions.json").read_bytes() == (
        finished.out / "questions.json"
    ).read_bytes()
