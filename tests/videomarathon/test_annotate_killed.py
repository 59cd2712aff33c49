"""SIGKILL at random times: no response is lost or requested twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest

from lit_hour.videomarathon.annotate import annotate
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import CONFIG, FinishedRun, SyntheticVideos

FORK = multiprocessing.get_context("fork")  # a process that can be killed and loads nothing anew


def start(videos: SyntheticVideos, out: Path, url: str) -> BaseProcess:
    """Annotate in a process that ends with the test."""
    arguments = (videos.folder, out, [url], "teacher", CONFIG)
    process = FORK.Process(target=annotate, args=arguments, daemon=True)
    process.start()
    return process


def cached_keys(out: Path) -> set[str]:
    """Return the keys of all responses on disk, in complete lines."""
    lines = [
        line
        for path in out.rglob("responses.jsonl")
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    return {json.loads(line)["key"] for line in lines if line.endswith(b"\n")}


def kill_and_resume(
    num_kills: int, videos: SyntheticVideos, finished_run: FinishedRun, out: Path
) -> None:
    random, num_killed = Random(1), 0
    total = finished_run.totals.num_responses
    num_responses = sorted(random.sample(range(total - 20), num_kills))
    with ChatServer(videos.teacher.answer, delay_seconds=0.01) as server:
        for num_responses_at_kill in num_responses:
            known, num_before = cached_keys(out), len(server.answered)
            process = start(videos, out, server.url)
            while len(server.answered) < num_responses_at_kill and process.is_alive():
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.02))
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            num_killed += process.exitcode == -signal.SIGKILL
            time.sleep(0.1)  # until the server has noticed the end of requests in flight
            answered = set(server.keys[num_before:])
            assert not known & answered, "a cached response was requested again"
            lost = answered - cached_keys(out)
            assert len(lost) <= CONFIG.client.max_concurrent_requests, "more lost than in flight"
        known, num_before = cached_keys(out), len(server.answered)
        process = start(videos, out, server.url)
        process.join(60)
        assert process.exitcode == 0
        assert not known & set(server.keys[num_before:])
    assert num_killed == num_kills
    assert len(known) < total, "the last kill came after the last request"
    expected = (finished_run.out / "questions.json").read_bytes()
    assert (out / "questions.json").read_bytes() == expected
    assert cached_keys(out) == cached_keys(finished_run.out) == set(finished_run.server.keys)


def test_sigkill_loses_and_repeats_no_response(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    kill_and_resume(2, videos, finished_run, tmp_path)


@pytest.mark.slow
def test_ten_sigkills_lose_and_repeat_no_response(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    kill_and_resume(10, videos, finished_run, tmp_path)


def test_two_processes_share_a_folder(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    with ChatServer(videos.teacher.answer) as server:
        processes = [start(videos, tmp_path, server.url) for _ in range(2)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert len(server.keys) == len(set(server.keys)) == finished_run.totals.num_responses
    expected = (finished_run.out / "questions.json").read_bytes()
    assert (tmp_path / "questions.json").read_bytes() == expected
